"""Checkpoints of the original projects with random weights, and what their code computed from them.

tests/golden/*.safetensors hold the weights ("state.", or "tokenizer." and "maskgit."), inputs and outputs; their
metadata has the arguments of the constructors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

import phenaki
from phenaki.compat import PegCViViT, PegMaskGit
from phenaki.compat.importing import import_maskgit, import_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
OBVIOUS, COSINE, LOOKUP_FREE = "obvious_cvivit_tiny", "lucidrains_vq_tiny", "lucidrains_lfq_tiny"
ALL = (OBVIOUS, COSINE, LOOKUP_FREE)


class Golden(NamedTuple):
    source: str
    tensors: dict[str, Tensor]
    arguments: dict[str, dict[str, Any]]  # of "tokenizer" and "maskgit"

    def state(self, part: str) -> dict[str, Tensor]:
        prefix = "state." if self.source == "obvious-cvivit" else f"{part}."
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def golden(name: str) -> Golden:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    if name == OBVIOUS:
        return Golden("obvious-cvivit", tensors, {"tokenizer": metadata["config"]})
    return Golden("phenaki-pytorch", tensors, {"tokenizer": metadata["cvivit"], "maskgit": metadata["maskgit"]})


def files(folder: Path, state: dict[str, Any], arguments: dict[str, Any]) -> tuple[Path, Path]:
    """A checkpoint and its --config file."""
    checkpoint, config = folder / "checkpoint.pt", folder / "arguments.json"
    torch.save(state, checkpoint)
    config.write_text(json.dumps(arguments))
    return checkpoint, config


def tokenizer_of(case: Golden, folder: Path) -> PegCViViT:
    checkpoint, config = files(folder, case.state("tokenizer"), case.arguments["tokenizer"])
    import_tokenizer(checkpoint, folder / "tokenizer", case.source, config)
    return phenaki.load(folder / "tokenizer", device="cpu")


def maskgit_of(case: Golden, folder: Path, **changes: object) -> PegMaskGit:
    sizes = {name: case.arguments["tokenizer"][name] for name in ("image_size", "patch_size", "temporal_patch_size")}
    checkpoint, config = files(folder, case.state("maskgit"), case.arguments["maskgit"] | sizes | changes)
    import_maskgit(checkpoint, folder / "maskgit", config)
    return phenaki.load(folder / "maskgit", device="cpu")
