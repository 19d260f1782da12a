"""Memory that several processes take while they resume a large ddp checkpoint, and the time.

    python benchmarks/resuming.py --gigabytes 3 --processes 4

A checkpoint of weights, their averages and AdamW's moments, as a run writes it, is loaded by processes under torchrun
with the timeouts of a run. The proportional set size (PSS, which counts what several processes map once) of all of them
is read all the time: what they take beyond what they hold in the end should be below the size of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from phenaki.training.config import RunConfig
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.recipes import cvivit_debug
from phenaki.training.run import Run

LAYERS, RESERVE = 16, 1.5e9  # bytes of memory that are left to others: below, everything is stopped


def make_state(parameters: int) -> dict[str, nn.Module | Optimizers]:
    """Layers whose memory is not written yet, their averages, and their optimizer."""
    width = round((parameters / LAYERS) ** 0.5)

    def network() -> nn.Module:
        with torch.device("meta"):
            return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(LAYERS))).to_empty(device="cpu")

    trained = network()
    return {"generator": trained, "ema": network(), "optimizers": Optimizers([trained], OptimizerConfig(), 100)}


def open_run(folder: str) -> Run:
    recipe = cvivit_debug()
    return Run(folder, RunConfig(device="cpu", trackers=()), recipe)


def write(folder: str, parameters: int) -> int:
    """Save a checkpoint, and return its size in bytes."""
    state = make_state(parameters)
    for name in ("generator", "ema"):
        for number, tensor in enumerate(state[name].parameters()):
            tensor.detach().fill_(number)
    for parameter in state["generator"].parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in state["optimizers"].optimizers:
        optimizer.step()
    with open_run(folder) as run:
        run.step = 1
        run.save(state)
    return sum(path.stat().st_size for path in (Path(folder) / "checkpoints").iterdir())


def resume(folder: str, parameters: int) -> None:
    """In a process under torchrun: load the checkpoint, say so, and wait until all have been measured."""
    state, mark = make_state(parameters), Path(folder) / f"rank{os.environ['RANK']}"
    with open_run(folder) as run:
        begin = time.monotonic()
        run.restore(state)
        assert run.step == 1 and all((p == n).all() for n, p in enumerate(state["ema"].parameters()))
        mark.write_text(json.dumps(time.monotonic() - begin))
        while not (Path(folder) / "measured").exists():
            time.sleep(0.1)


def pss(folder: str) -> int:
    """Bytes of all processes that resume in the folder."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"--resume" in command and folder.encode() in command and b"torch.distributed.run" not in command:
                found = re.search(r"^Pss: +(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
                total += 1024 * int(found[1]) if found else 0
        except OSError:  # it has ended
            continue
    return total


def available() -> int:
    return 1024 * int(re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)[1])


def measure(size: float, processes: int, folder: str) -> None:
    parameters = int(size * 1e9 / 4 / 4)  # weights, averages and two moments in float32
    script = str(Path(__file__).resolve())
    made = subprocess.run(
        [sys.executable, script, "--write", folder, "--parameters", str(parameters)], check=True, capture_output=True
    )
    written = int(made.stdout.split()[-1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script]
    running = subprocess.Popen([*launch, "--resume", folder, "--parameters", str(parameters)])
    peak = 0
    try:
        while len(done := list(Path(folder).glob("rank*"))) < processes:
            if running.poll() is not None or available() < RESERVE:
                raise SystemExit(
                    "a process ended" if running.poll() is not None else "memory is short: fewer gigabytes"
                )
            peak = max(peak, pss(folder))
            time.sleep(0.1)
        time.sleep(1)
        held = pss(folder)
        seconds = max(float(mark.read_text()) for mark in done)
        (Path(folder) / "measured").touch()
        running.wait()
    finally:
        running.terminate()
        running.wait()
    print(
        f"{written / 1e9:.2f} GB resumed by {processes} processes in {seconds:.0f} s: {peak / 1e9:.2f} GB at most, "
        f"{held / 1e9:.2f} in the end, {max(0, peak - held) / written:.2f} times the checkpoint beyond that"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--folder", help="for the checkpoint; default: the system's for temporary files")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--resume", help=argparse.SUPPRESS)
    parser.add_argument("--parameters", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        print(write(args.write, args.parameters))
    elif args.resume:
        resume(args.resume, args.parameters)
    else:
        folder = tempfile.mkdtemp(dir=args.folder)
        try:
            measure(args.gigabytes, args.processes, folder)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
