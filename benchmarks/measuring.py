"""Time and memory of a function, each measurement in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def measure_apart(script: str, *arguments: object) -> Any:
    """The JSON that `python SCRIPT --measure ARGUMENTS` prints in its last line; memory is that of this process."""
    command = [sys.executable, script, "--measure", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


def measure_both(script: str, *arguments: object) -> tuple[dict[str, float], dict[str, float], str]:
    """`measure_apart` of "ours" and "theirs", and columns: seconds of both and their ratio, MiB of both."""
    ours, theirs = (measure_apart(script, side, *arguments) for side in ("ours", "theirs"))
    columns = f"{ours['seconds']:8.2f} {theirs['seconds']:9.2f} {theirs['seconds'] / ours['seconds']:7.2f}"
    return ours, theirs, f"{columns} {ours['memory']:10.0f} {theirs['memory']:11.0f}"


COLUMNS = "  ours s  theirs s   ratio   ours MiB  theirs MiB"
"""Header of the columns of `measure_both`."""


def versions(threads: int | None = None) -> str:
    """Of torch and phenaki-pytorch, and the number of threads."""
    threads = threads or torch.get_num_threads()
    return f"torch {torch.__version__}, phenaki-pytorch {version('phenaki-pytorch')}, {threads} threads"


def peak_memory() -> float:
    """The peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def extra_memory(run: Callable[[], object]) -> float:
    """The peak memory during `run` above the memory before it, MiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = _memory("VmRSS")
    run()
    return _memory("VmHWM") - before


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats`, after a warm-up."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
