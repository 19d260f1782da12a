"""What a run survives, and what that costs.

    python benchmarks/surviving.py kills --kills 15      # of each stage, also while a checkpoint is being written
    python benchmarks/surviving.py cost                  # of the loop and of checkpoints, at 64 pixels
    python benchmarks/surviving.py resume                # from the command to the first step

`kills` trains each stage twice: undisturbed, and killed with SIGKILL at random moments and resumed each time. The last
checkpoints must be equal bit for bit. `cost` counts the CPU time of the process, which other processes leave alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from phenaki.core.precision import autocast
from phenaki.tokenizers import Tokenizer, build_tokenizer
from phenaki.tokenizers.losses import code_losses, pixel_losses
from phenaki.training.checkpoints import Checkpoints, load
from phenaki.training.generator import train_generator
from phenaki.training.optim import Optimizers
from phenaki.training.recipes import cvivit_debug, cvivit_shapes_64, masked_debug
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerTrainer, train_tokenizer

Train = Callable[[Path], object]


# ---- kills


def stages(steps: int, checkpoint_every: int = 2) -> dict[str, Train]:
    """Both trainings at their smallest, for so many steps."""

    def short(recipe: Any) -> Any:
        often = {"checkpoint_every": checkpoint_every, "eval_every": 10 * steps, "log_every": 1}
        return replace(recipe, run=replace(recipe.run, steps=steps, trackers=(), **often))

    torch.manual_seed(0)
    tokenizer = build_tokenizer(cvivit_debug().tokenizer).eval()
    return {
        "tokenizer": lambda folder: train_tokenizer(short(cvivit_debug()), folder),
        "generator": lambda folder: train_generator(short(masked_debug()), folder, tokenizer),
    }


def start(train: Train, folder: Path) -> tuple[int, int]:
    """A process that trains, and a pipe with a byte from it for each step."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    log = Run.log

    def told(self: Run, **values: float) -> None:
        log(self, **values)
        os.write(writer, b".")

    Run.log = told
    sys.stderr = open(os.devnull, "w")
    train(folder)
    os._exit(0)


def disturb(train: Train, folder: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill a training so many times and resume it each time; at the end let it run. Returns when kills came.

    Every third kill comes while a checkpoint is being written, the others some steps and a part of a step later, or
    before the first step.
    """
    came = {"starting": 0, "training": 0, "writing": 0}
    last = 0.3  # seconds, of a step
    while sum(came.values()) < kills:
        before = unfinished(folder)  # of an earlier kill, until the next process is up
        pid, steps = start(train, folder)
        writing, wanted = sum(came.values()) % 3 == 2, rng.randrange(5)
        seen, began = 0, time.monotonic()
        while seen < wanted and os.read(steps, 1):
            seen += 1
            last = 0.5 * last + 0.5 * (time.monotonic() - began)
            began = time.monotonic()
        if writing:
            while not unfinished(folder) - before and not _over(steps):
                time.sleep(0.0002)
        else:
            time.sleep(rng.random() * (last if wanted else 1.0))
        os.kill(pid, signal.SIGKILL)
        killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(steps)
        if not killed:
            raise SystemExit("it ended before it was killed: more steps are needed for so many kills")
        came["writing" if unfinished(folder) - before else "training" if seen else "starting"] += 1
    pid, steps = start(train, folder)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the last part failed")
    os.close(steps)
    return came


def unfinished(folder: Path) -> set[Path]:
    """Checkpoints that are being written, or were when the process was killed."""
    return set((folder / "checkpoints").glob(".phenaki-*"))


def _over(steps: int) -> bool:
    """Whether the process has ended; takes the steps that it told of."""
    return bool(select.select([steps], [], [], 0)[0]) and not os.read(steps, 1)


def equal(one: Any, two: Any) -> bool:
    """Bit for bit, whatever is nested."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(value, two[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


def newest(folder: Path) -> dict[str, Any]:
    content = Checkpoints(folder, 1, 0, print).newest()
    assert content is not None
    return load(content, torch.device("cpu"))


def kills(count: int, steps: int, seed: int) -> None:
    rng = random.Random(seed)
    for stage, train in stages(steps).items():
        with tempfile.TemporaryDirectory() as place:
            whole, parts = Path(place) / "whole", Path(place) / "parts"
            pid, pipe = start(train, whole)
            os.waitpid(pid, 0)
            os.close(pipe)
            came = disturb(train, parts, count, rng)
            same = equal(newest(whole), newest(parts))
            steps_run = [json.loads(line)["step"] for line in (parts / "metrics.jsonl").read_text().splitlines()]
            recorded = sorted(set(steps_run)) == list(range(1, steps + 1))
        when = ", ".join(f"{number} {name}" for name, number in came.items())
        print(f"{stage}: {count} kills ({when}); equal to the undisturbed run: {same}; each step recorded: {recorded}")


# ---- cost


def cpu(work: Callable[[int], object], steps: int) -> float:
    """Seconds of this process's CPU time a step."""
    began = time.process_time()
    for step in range(steps):
        work(step)
    return (time.process_time() - began) / steps


def cost(rounds: int, steps: int) -> None:
    recipe = cvivit_shapes_64()
    recipe = replace(recipe, run=replace(recipe.run, steps=10**6, log_every=5))
    video = torch.rand(recipe.data.batch, 3, max(recipe.data.lengths), 64, 64)
    with tempfile.TemporaryDirectory() as place, Run(Path(place), recipe.run, recipe) as run:
        training = TokenizerTrainer(recipe, run)
        ours_steps = run.steps(training.state)

        def ours(step: int) -> None:
            run.log(**training.update(video, next(ours_steps)))

        bare_network: Tokenizer = build_tokenizer(recipe.tokenizer)
        optimizers = Optimizers([bare_network], recipe.optimizer, recipe.run.steps)

        def bare(step: int) -> None:
            with autocast(run.device, recipe.run.precision):
                out = bare_network(video)
            losses = pixel_losses(out.video, video, recipe.loss) | code_losses(out, video, bare_network, recipe.loss)
            sum(losses.values()).backward()
            optimizers.update(step)

        ours(0), bare(0)
        pairs = [(cpu(bare, steps), cpu(ours, steps)) for _ in range(rounds)]
        overhead = statistics.median(b / a for a, b in pairs) - 1
        step_time = statistics.median(b for _, b in pairs)
        print(f"a step of cvivit_shapes_64: {step_time:.3f} s of CPU time, {overhead:+.1%} over the bare one")

        began, process = time.perf_counter(), time.process_time()
        run.save(training.state)
        waited = time.perf_counter() - began
        run._checkpoints.wait()
        total = time.process_time() - process
        (written,) = (Path(place) / "checkpoints").iterdir()
        interval = recipe.run.checkpoint_every * step_time
        size = written.stat().st_size / 2**20
        print(
            f"a checkpoint of {size:.0f} MiB: the training stands for {waited:.3f} s, all of it takes {total:.3f} s of "
            f"CPU time; {total / interval:.2%} of {recipe.run.checkpoint_every} steps"
        )


# ---- resume


def cpu_of(pid: int) -> float:
    """Seconds of CPU time of a process that runs, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resume() -> None:
    command = [sys.executable, "-m", "phenaki", "train", "tokenizer", "--recipe", "cvivit_shapes_64"]
    changes = ["run.log_every=1", "run.checkpoint_every=2", "run.eval_every=1000000"]
    with tempfile.TemporaryDirectory() as place:
        metrics = Path(place) / "metrics.jsonl"
        for attempt in ("anew", "resumed"):
            before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            began = time.monotonic()
            process = subprocess.Popen(
                [*command, "--out", place, *changes], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            while not metrics.exists() or len(metrics.read_text().splitlines()) <= before:
                if process.poll() is not None:
                    raise SystemExit("the training ended")
                time.sleep(0.02)
            taken, busy = time.monotonic() - began, cpu_of(process.pid)
            while not any(Path(place).glob("checkpoints/step_*.pt")):
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            process.wait()
            print(f"{attempt}: {taken:.1f} s ({busy:.1f} s of CPU time) from the command to the end of the first step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "cost", "resume"])
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if given.what == "kills":
        kills(given.kills, given.steps, given.seed)
    elif given.what == "cost":
        cost(given.rounds, 3)
    else:
        resume()


if __name__ == "__main__":
    main()
