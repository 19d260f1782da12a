"""Resident memory of a loader's workers over a million samples: how much, and whether it grows.

`python benchmarks/memory.py` writes token shards of samples as small as they come, passes a million of them through
`Batches` with 4 workers, and reads the memory of each worker from /proc along the way, in MB:

RSS      all that is mapped, the pages of Python and torch that all processes share too
PSS      the same, with shared pages divided among those who share them
private  what this worker alone holds (USS)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from phenaki.core.config import to_dict
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.data.shards import ShardWriter
from phenaki.data.tokens import TOKENS, TokenSet
from phenaki.tokenizers import TokenizerSpec

WORKERS, BATCH, MARKS, BAR = 4, 64, 10, 300
SPEC = TokenizerSpec(vocab_size=256, patch=(2, 8, 8), image_size=(16, 16), fps=8)


def write_samples(place: Path, count: int) -> None:
    """Token shards of 5 frames of 2x2 ids each, and a caption."""
    rng = np.random.default_rng(0)
    with ShardWriter(str(place), max_samples=10_000) as writer:
        for number in range(count):
            ids = rng.integers(0, 256, (3, 2, 2), np.uint8)
            words = json.dumps({"captions": [f"the caption of sample {number}"]}).encode()
            writer.write(f"{number:07d}", {"safetensors": save({"ids": ids}), "json": words})
    (place / TOKENS).write_text(json.dumps(to_dict(TokenSet("simulated", SPEC, frames=5))))


def memory(pid: int) -> tuple[float, float, float]:
    """RSS, PSS and private MB of a process."""
    kilobytes = dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
    private = int(kilobytes["Private_Clean"]) + int(kilobytes["Private_Dirty"])
    return int(kilobytes["Rss"]) / 1024, int(kilobytes["Pss"]) / 1024, private / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000, help="that pass through")
    parser.add_argument("--stored", type=int, default=200_000, help="that lie in the shards")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, torch {torch.__version__}; MB of each of {WORKERS} workers")
    with tempfile.TemporaryDirectory() as place:
        write_samples(Path(place), arguments.stored)
        sources = (SourceConfig(place),)
        batches = Batches(DataConfig(sources, size=16, batch=BATCH, lengths=(5,), workers=WORKERS), SPEC.patch[0])
        began, highest, private = time.perf_counter(), 0.0, []
        for mark in range(1, MARKS + 1):
            for _ in range(arguments.samples // MARKS // BATCH):
                next(batches)
            taken = [memory(worker.pid) for worker in multiprocessing.active_children()]
            rss, pss, own = zip(*taken, strict=True)
            highest, private = max(highest, *rss), [*private, max(own)]
            shown = (
                f"{name} {' '.join(f'{n:.0f}' for n in v)}"
                for name, v in (("RSS", rss), ("PSS", pss), ("private", own))
            )
            print(f"{mark * arguments.samples // MARKS:9,} samples: {',  '.join(shown)}", flush=True)
        rate = arguments.samples / (time.perf_counter() - began)
    print(f"highest RSS of a worker {highest:.0f} MB; the bar is {BAR}")
    print(f"private memory from the 2nd mark to the last {private[-1] - private[1]:+.1f} MB; {rate:,.0f} samples/s")


if __name__ == "__main__":
    main()
