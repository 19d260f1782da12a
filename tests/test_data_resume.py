"""Two real processes with two workers each: stopped and started again they see what they would have seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.processes import torchrun
from phenaki.data.shards import ShardWriter

STEPS, STOPPED_AFTER = 14, 5
SCRIPT = f"""
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.training.recipes import cvivit_debug
from phenaki.training.config import RunConfig
from phenaki.training.run import Run

def train(name, stop_after=None):
    '''Sees the captions of the steps that remain, and writes them down.'''
    sources = (SourceConfig(str(root / "shards")),)
    data = DataConfig(sources, size=16, batch=4, lengths=(1,), workers=2, shuffle=4)
    seen = []
    with Run(root / name, RunConfig(steps={STEPS}, log_every=100), replace(cvivit_debug(), data=data)) as run:
        batches = Batches(data, 2, run.rank, run.world_size)
        run.restore({{"data": batches}})
        for step in run.steps({{"data": batches}}):
            seen += next(batches)["captions"]
            if step == stop_after and run.is_main:
                os.kill(os.getpid(), signal.SIGINT)
        with open(root / f"{{name}}_{{run.rank}}.jsonl", "a") as file:
            file.write(json.dumps(seen) + "\\n")

root = Path(sys.argv[1])
if sys.argv[2] == "first":
    train("whole")
    train("parts", stop_after={STOPPED_AFTER})
else:
    train("parts")
"""


def test_a_run_that_is_resumed_sees_what_an_uninterrupted_one_would_have_seen(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "shards"), max_samples=5) as writer:
        for number in range(23):
            Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(tmp_path / "picture.png")
            fields = {"png": (tmp_path / "picture.png").read_bytes(), "txt": f"grey {number}".encode()}
            writer.write(f"{number:02d}", fields)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    torchrun(script, tmp_path, "first")
    torchrun(script, tmp_path, "again")
    for rank in range(2):
        (whole,) = read(tmp_path / f"whole_{rank}.jsonl")
        before, after = read(tmp_path / f"parts_{rank}.jsonl")
        assert len(before) == 2 * (STOPPED_AFTER + 1) and len(after) == 2 * STEPS - len(before)
        assert before + after == whole
    whole = [caption for rank in range(2) for (seen,) in [read(tmp_path / f"whole_{rank}.jsonl")] for caption in seen]
    assert len(set(whole)) == 23  # the processes see different ones


def read(file: Path) -> list[list[str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
