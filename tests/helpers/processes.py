"""Tests that need several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def torchrun(script: Path, *arguments: object, processes: int = 2) -> None:
    """Run a script in several processes on this machine; it can import `helpers` and test modules."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    subprocess.run([*launch, str(script), *map(str, arguments)], env={**os.environ, "PYTHONPATH": path}, check=True)
