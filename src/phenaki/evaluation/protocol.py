"""What stands beside a figure: the world it was measured on, the model, the versions, the machine."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from phenaki import __version__
from phenaki.core.components import fingerprint
from phenaki.evaluation.generate import FRAMES, Model
from phenaki.tokenizers import Tokenizer
from phenaki.worlds.shapes import ShapesWorld

WORLD_SEED = (
    7  # not the seeds whose test clips a training run shows, nor that of benchmarks/samplers.py: choose by others
)

FITTED = {  # how a picture of another size is brought to the tokenizer's (`media/reader.py`), and what is compared
    "resize": "short side, bicubic, antialiased",
    "crop": "center",
    "range": "RGB in [0, 1]",
}


def unseen_world(
    tokenizer: Tokenizer, split: str = "test", objects: int | None = None, frames: int = FRAMES
) -> ShapesWorld:
    """Unseen clips at the tokenizer's size; `split` and `objects` as in `ShapesWorld`."""
    return ShapesWorld(WORLD_SEED, split, tuple(tokenizer.config.image_size), frames, objects)


def measured_on(world: ShapesWorld) -> dict[str, Any]:
    """The world as data. `objects`: in a scene, null for one or two; `frames`: of a clip or of a scene."""
    return {
        "world": "shapes",
        "world_seed": world.seed,
        "split": world.split,
        "objects": world.objects,
        "frames": world.frames,
        "fps": world.fps,
        "size": [world.height, world.width],
    }


def measured_with(model: Model | Tokenizer) -> dict[str, Any]:
    """The model (fingerprints of its parts), versions and machine as data."""
    if isinstance(model, Tokenizer):
        parts = {"tokenizer": model}
    else:
        parts = {"tokenizer": model.tokenizer, "generator": model.generator, "text": model.text_encoder}
    device = next(parts["tokenizer"].parameters()).device
    return {
        "model": {room: fingerprint(part) for room, part in parts.items()},
        "phenaki": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


@cache
def commit() -> str | None:
    """The commit of the checkout that this code runs in, with "-dirty" where files were changed; else None.

    Asked once: the figures that are written may themselves be a file of the checkout.
    """
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(described, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or an installed package
        return None
