"""Speedup of packing on all cores over one: small clips, cut and re-encoded.

`python benchmarks/pack.py --clips 1000 --folder out/pack_benchmark` prints the seconds of both and their ratio. Run
it on an idle machine. If interrupted, the same command reuses the clips and results in the folder; delete it to start
over.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from phenaki.core.files import write_atomic
from phenaki.data.cuts import Cutting
from phenaki.data.packing import PackConfig, pack
from phenaki.media.writer import write_video

ENCODED, BAR = 16, 1.7


@cache
def encoded(seed: int, frames: int = 90) -> bytes:
    """3 s of a texture that moves, 320x180 at 30 fps."""
    texture = np.random.default_rng(seed).integers(0, 256, (24, 48, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "clip.mp4")
        write_video(file, np.stack([texture[t : t + 180, 2 * t : 2 * t + 320] for t in range(frames)]), 30)
        return file.read_bytes()


def make_sources(folder: Path, clips: int) -> None:
    """A few videos many times over, each with a box of its number at the end, so that none has the bytes of another."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(clips):
        path = folder / f"{number:06d}.mp4"
        if not path.exists():
            with write_atomic(path) as file:
                file.write(encoded(number % ENCODED) + struct.pack(">I4sQ", 16, b"free", number))


def seconds_to_pack(sources: Path, processes: int) -> float:
    cutting = Cutting(fps=8, size=128, seconds=1)
    with tempfile.TemporaryDirectory(dir=sources.parent) as out:
        began = time.perf_counter()
        pack(PackConfig((sources,), out, cutting=cutting, processes=processes))
        return time.perf_counter() - began


def measure(folder: Path, clips: int, processes: int) -> float:
    """Seconds, once and for all."""
    noted = folder / f"seconds-{processes}.json"
    if not noted.exists():
        seconds = seconds_to_pack(folder / "sources", processes)
        with write_atomic(noted, "w") as file:
            json.dump(seconds, file)
    seconds = json.loads(noted.read_text())
    print(f"{clips} clips in {processes} processes: {seconds:.1f} s, {clips / seconds:.1f} clips/s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--folder", type=Path, required=True, help="for the clips and figures, about 30 kB a clip")
    arguments = parser.parse_args()
    folder = arguments.folder / f"{arguments.clips}_clips"
    make_sources(folder / "sources", arguments.clips)
    one, all_cores = (measure(folder, arguments.clips, n) for n in (1, len(os.sched_getaffinity(0))))
    print(f"ratio {one / all_cores:.2f}; the bar is {BAR}")


if __name__ == "__main__":
    main()
