"""How much faster all cores pack than one: small clips, cut and encoded anew.

`python benchmarks/pack.py --clips 1000` prints the seconds of both and their ratio. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from phenaki.data.cuts import Cutting
from phenaki.data.pack import PackConfig, pack
from phenaki.video import write_video


def make_clip(path: Path, seed: int, frames: int = 90) -> None:
    """3 s of a texture that moves, 320x180 at 30 fps."""
    texture = np.random.default_rng(seed).integers(0, 256, (24, 48, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    write_video(path, np.stack([texture[t : t + 180, 2 * t : 2 * t + 320] for t in range(frames)]), 30)


def seconds_to_pack(sources: Path, out: Path, processes: int) -> float:
    cutting = Cutting(fps=8, size=128, seconds=1)
    began = time.perf_counter()
    pack(PackConfig((sources,), str(out), cutting=cutting, processes=processes))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    clips = parser.parse_args().clips
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "sources")
        sources.mkdir()
        for number in range(clips):
            make_clip(sources / f"{number:06d}.mp4", number)
        one = seconds_to_pack(sources, Path(folder, "one"), 1)
        all_cores = seconds_to_pack(sources, Path(folder, "all"), cores)
    print(f"{clips} clips: 1 process {one:.1f} s, {cores} processes {all_cores:.1f} s, ratio {one / all_cores:.2f}")


if __name__ == "__main__":
    main()
