"""Predicted and measured memory of training steps on this CPU.

`python benchmarks/memory_plan.py` trains each recipe for a few steps in a process of its own and reads the peak of its
resident memory. Predicted is the peak of `phenaki.training.cost`, and LIBRARIES: what Python, torch and its kernels
take in any training here. The bar is for the whole process; the same is also printed without the memory after the
imports.

glibc keeps freed memory in pieces too small for larger tensors; MALLOC_MMAP_THRESHOLD_ makes it return them, so that
tensors are measured rather than fragmentation. The last column is the process without that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from phenaki.data.config import SourceConfig
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.tokenizers import build_tokenizer
from phenaki.training import recipes
from phenaki.training.cost import step_cost
from phenaki.training.generator import train_generator
from phenaki.training.run import Run
from phenaki.training.tokenizer import train_tokenizer

RECIPES = (
    "cvivit_debug",
    "conv3d_debug",
    "masked_debug",
    "cvivit_shapes_64",
    "masked_shapes_64",
    "cvivit_64",
    "conv3d_64",
)
TOKENIZERS = {"masked_debug": "cvivit_debug", "masked_shapes_64": "cvivit_shapes_64"}
STEPS, BAR = 6, 0.15
LIBRARIES = 400_000_000
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def prepared(name: str):
    """The recipe as it is measured: longest clips alone, no loss whose weights are not ours, batches that fit here."""
    recipe = (recipes.TOKENIZER_RECIPES | recipes.GENERATOR_RECIPES)[name]()
    data = replace(recipe.data, lengths=(max(recipe.data.lengths),), length_weights=(1.0,), workers=0)
    run = replace(recipe.run, device="cpu", trackers=(), log_every=1)
    if name in recipes.TOKENIZER_RECIPES:
        recipe = replace(recipe, loss=replace(recipe.loss, lpips=0.0, i3d=0.0))
    if data.batch > 16:
        data = replace(data, batch=2)
    return replace(recipe, data=data, run=run)


def tokenizer_of(name: str):
    torch.manual_seed(0)
    return build_tokenizer(recipes.TOKENIZER_RECIPES[TOKENIZERS[name]]().tokenizer)


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, place: Path) -> None:
    """Train, stop after some steps, and print bytes before and at the peak."""
    recipe, log = prepared(name), Run.log
    before = peak()

    def logged(run: Run, **values: float) -> None:
        log(run, **values)
        if run.step + 1 == STEPS:
            print(json.dumps([before, peak()]), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)  # saving is no part of a step

    Run.log = logged
    if name in TOKENIZERS:
        recipe = replace(recipe, data=replace(recipe.data, sources=(SourceConfig(str(place / "tokens")),)))
        train_generator(recipe, place / "run", resume="never", overwrite=True)
    else:
        train_tokenizer(recipe, place / "run", resume="never", overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--measure", nargs=2, metavar=("RECIPE", "FOLDER"), help="in a process of its own")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
    for name in () if arguments.measure else arguments.recipes:
        recipe = prepared(name)
        with tempfile.TemporaryDirectory() as folder:
            if name in TOKENIZERS:
                frames = max(recipe.data.lengths)
                config = TokenizeConfig(SourceConfig("shapes"), frames=frames, samples=8 * recipe.data.batch)
                tokenize(config, str(Path(folder) / "tokens"), tokenizer_of(name).eval())
            before, after = measured(name, folder, GIVEN_BACK)
            _, plain = measured(name, folder, {})
        spec = tokenizer_of(name).spec if name in TOKENIZERS else None
        predicted = step_cost(recipe, spec, hardware="cpu").peak
        ratio = (LIBRARIES + predicted) / after
        verdict = "" if abs(ratio - 1) <= BAR else "  OUTSIDE"
        above = (LIBRARIES + predicted - before) / (after - before)
        print(
            f"{name:<17} tensors {predicted / 1e6:7.1f} MB; process {(LIBRARIES + predicted) / 1e6:7.1f} predicted, "
            f"{after / 1e6:7.1f} measured: {ratio:.3f}{verdict}; above imports {above:.3f}; plain {plain / 1e6:.1f} MB",
            flush=True,
        )


def measured(name: str, folder: str, environment: dict[str, str]) -> tuple[int, int]:
    command = [sys.executable, __file__, "--measure", name, folder]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | environment)
    return tuple(json.loads(said.stdout))


if __name__ == "__main__":
    main()
