"""Speedup of two training processes over one, each pinned to a core with one thread.

`python benchmarks/processes.py` trains the tokenizer of 64 x 64 pixels and the generator on its ids, live from the
procedural world, with the batch of the recipe in each process, and prints clips per second:

one    a single process
two    two under torchrun, gradients averaged in each step
apart  two independent processes at the same time: what a second core adds on this machine

The ways alternate, and medians are printed. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import phenaki
from phenaki.training.generator import train_generator
from phenaki.training.recipes import cvivit_shapes_64, masked_shapes_64
from phenaki.training.tokenizer import train_tokenizer

STAGES = ("tokenizer", "generator")
BAR = 1.8
TRAIN = (sys.executable, __file__, "--train")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, "--train")


def train(stage: str, folder: Path, core: int, steps: int) -> None:
    """Train in this process, one of several, on one core; metrics are logged every quarter of the steps."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    recipe = cvivit_shapes_64() if stage == "tokenizer" else masked_shapes_64()
    rarely = {"checkpoint_every": 10 * steps, "eval_every": 10 * steps, "log_every": steps // 4}
    run = replace(recipe.run, steps=steps + 1, trackers=(), **rarely)  # the last, whose pictures cost, is not counted
    batch = recipe.data.batch * int(os.environ.get("WORLD_SIZE", 1))  # that of all processes
    recipe = replace(recipe, run=run, data=replace(recipe.data, workers=0, batch=batch))
    if stage == "tokenizer":
        train_tokenizer(recipe, folder)
    else:
        recipe = replace(recipe, sampling=recipe.sampling.with_options({"steps": 1}))  # of its pictures
        train_generator(recipe, folder, phenaki.load("shapes-64").tokenizer)


def pace(folder: Path) -> float:
    """Clips per second: the median of what the run recorded, but for its first quarter."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [line["speed/clips_per_second"] for line in lines if "speed/clips_per_second" in line]
    return statistics.median(told[1:4])


def together(*commands: Sequence[object]) -> None:
    """Run commands at the same time."""
    running = [subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, told = process.communicate()
        if process.returncode:
            raise SystemExit(told)


def measure(stage: str, steps: int, cores: Sequence[int]) -> dict[str, float]:
    """Clips per second of each way, once."""
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in ("one", "two", "first", "second")}
        told = ("--steps", steps, "--cores", *cores, "--folder")
        together((*TRAIN, stage, *told, folders["one"]))
        together((*TWO, stage, *told, folders["two"]))
        swapped = ("--steps", steps, "--cores", *reversed(cores), "--folder")
        together((*TRAIN, stage, *told, folders["first"]), (*TRAIN, stage, *swapped, folders["second"]))
        paces = {name: pace(folder) for name, folder in folders.items()}
    return {"one": paces["one"], "two": paces["two"], "apart": paces["first"] + paces["second"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--cores", nargs=2, type=int, default=sorted(os.sched_getaffinity(0))[:2])
    parser.add_argument("--train", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.train, given.folder, given.cores[int(os.environ.get("LOCAL_RANK", 0))], given.steps)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"torch {torch.__version__}, one thread a process, cores {given.cores}")
    for stage in given.stages:
        turns = [measure(stage, given.steps, given.cores) for _ in range(given.repeats)]
        one, two, apart = (statistics.median(turn[name] for turn in turns) for name in ("one", "two", "apart"))
        print(
            f"{stage:10} one {one:6.2f} clips/s, two {two:6.2f}: {two / one:.2f} x (bar {BAR}); "
            f"apart {apart:6.2f}: {apart / one:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
