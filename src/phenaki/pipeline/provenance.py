"""How a generated video was made, as files keep it (`media/metadata.py`) and `phenaki generate --replay` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from phenaki.core.config import to_dict
from phenaki.pipeline.pretrained import PretrainedModel
from phenaki.sampling import SamplingOptions


def provenance(
    model: PretrainedModel,
    command: str,
    prompts: Sequence[Any],
    options: SamplingOptions,
    seed: int,
    samples: int,
    size: Sequence[int],
    frames: int | Sequence[int] | None,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """JSON-serialisable metadata.

    command: generate, extend, interpolate or inpaint. prompts: of the scenes, a tuple
    where each sample has its own; None for embeddings. size: (H, W) before
    enlarging. inputs: of the files that it began with, by what they are, the path and the SHA-256 of the content.
    """
    return {
        "command": command,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "prompts": [list(prompt) if isinstance(prompt, tuple) else prompt for prompt in prompts],
        "frames": frames if frames is None or isinstance(frames, int) else [int(length) for length in frames],
        "seed": seed,
        "samples": samples,
        "size": list(size),
        "fps": model.fps,
        "sampling": to_dict(model.sampling.with_options(options)),
        "device": model.device.type,
        "torch": torch.__version__,
        **({"inputs": dict(inputs)} if inputs else {}),
    }
