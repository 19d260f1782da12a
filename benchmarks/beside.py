"""What the benchmarks share that set this package beside another: a process for each side, time, and memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_a_process(script: str, *arguments: object) -> Any:
    """What `python SCRIPT --measure ARGUMENTS` prints as JSON in its last line: memory is of that process alone."""
    command = [sys.executable, script, "--measure", *map(str, arguments)]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(told.stderr)
    return json.loads(told.stdout.splitlines()[-1])


def peak() -> float:
    """The most that this process held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def more_memory(run: Callable[[], object]) -> float:
    """The most, in MiB, that this process holds during `run` above what it held before, by Linux' own count, whose
    high-water mark is set back first."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _held("VmRSS")
    run()
    return _held("VmHWM") - before


def _held(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats`, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
