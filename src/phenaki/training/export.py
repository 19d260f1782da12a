"""Export the model of a checkpoint, sharded or not, as a folder of safetensors."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from phenaki.core import components
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_folder_atomic, writing
from phenaki.core.hub import MODEL_FILE
from phenaki.core.weights import load_weights
from phenaki.evaluation import inverse_dynamics  # noqa: F401 - registers its component
from phenaki.pipeline import load_part
from phenaki.training.checkpoints import Checkpoints, load, read

_AVERAGES = {"ema": "tokenizer", "generator_ema": "generator", "text_encoder_ema": "text", "critic_ema": "critic"}


def export(run: Path, out: Path, checkpoint: Path | None = None) -> None:
    """Write the averaged weights of a checkpoint of `run` (None: the newest complete one) into a new folder `out`.

    Configurations and frozen networks, which checkpoints do not hold, are copied from the model that the run last
    wrote. Raises PhenakiError if there is no checkpoint or no such model, and if `out` exists.
    """
    if out.exists():
        raise PhenakiError(f"'{out}' exists: name a new folder")
    content = read(checkpoint) if checkpoint else Checkpoints(run, 1, 0, _say).newest()
    if content is None:
        raise PhenakiError(f"'{run}' holds no checkpoint: name the folder of a run")
    state = load(content, torch.device("cpu"))["state"]
    written = run / ("tokenizer" if "ema" in state else "model")
    if not written.is_dir():
        raise PhenakiError(f"the run has not written '{written}' yet, which it does every run.eval_every steps")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomic(out) as new:
        shutil.copytree(written, new, dirs_exist_ok=True)
        for name, kind in _AVERAGES.items():
            if name in state:
                _overwrite(new if name == "ema" else new / kind, kind, state[name])
        if "critic_ema" in state:
            described = components.read_json(new / MODEL_FILE) | {
                "critic": components.fingerprint(new / components.CRITIC)
            }
            (new / MODEL_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _overwrite(folder: Path, kind: str, average: dict[str, Tensor]) -> None:
    """Replace the weights of the component in `folder` by those of an AveragedModel."""
    component = load_part(folder, kind)
    state = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
    load_weights(component, state, folder)
    components.save_component(component, folder)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
