"""Recorded with each metric: preprocessing of the clips, model, versions, machine."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from phenaki.core.components import REQUIRED, fingerprint
from phenaki.core.version import __version__
from phenaki.evaluation.generate import Model
from phenaki.tokenizers import Tokenizer

PREPROCESSING = {  # of frames of another size than the tokenizer's (`media/reader.py`), and what is compared
    "resize": "short side, bicubic, antialiased",
    "crop": "center",
    "range": "RGB in [0, 1]",
}


def provenance(model: Model | Tokenizer) -> dict[str, Any]:
    """Fingerprints of the model's components, versions, and the machine."""
    parts = {"tokenizer": model} if isinstance(model, Tokenizer) else model.components.networks
    device = next(parts["tokenizer"].parameters()).device
    return {
        "model": {kind: fingerprint(part) for kind, part in parts.items() if kind in REQUIRED},
        "phenaki": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


@cache
def commit() -> str | None:
    """The commit of the checkout that this code runs from, with "-dirty" if files differ; None outside of one.

    Cached, since the metrics that are written may themselves be a file of the checkout.
    """
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder)]
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(described, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or an installed package
        return None
