"""Overhead of the loader over decoding: clips per second of `Batches` and of `read_clip` alone.

`python benchmarks/loader.py` takes clips of 11 frames at 8 per second from random places of two kinds of files: 128x128
pixels of mp4 files as cameras make them (those of clips.py), and 64x64 of mp4 files as `phenaki data pack --fps 8
--size 64 --seconds 4` leaves them, of which decoding is so cheap that little else may cost anything. The ways:

bare     `phenaki.media.reader.read_clip` over bytes in memory
folder   batches out of a folder of the files, without a worker and with one
shards   batches out of tar shards of them, likewise

The ways alternate and CPU time is measured, including the worker's, so that other load matters little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from clips import VIEW, make_video

from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.data.shards import ShardWriter
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView
from phenaki.media.writer import write_video

BATCH, BAR = 8, 15
SMALL = ClipView(frames=11, fps=8, size=(64, 64), random=True)


def make_small_video(seed: int) -> bytes:
    """4 s of 64x64 pixels at 8 frames per second: a texture that pans."""
    texture = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "small.mp4")
        write_video(file, np.stack([texture[2 * t : 2 * t + 64, 3 * t : 3 * t + 64] for t in range(32)]), 8)
        return file.read_bytes()


def write(videos: list[bytes], folder: Path, shards: Path) -> None:
    folder.mkdir()
    with ShardWriter(str(shards), max_samples=-(-len(videos) // 2)) as writer:
        for number, video in enumerate(videos):
            caption = f"texture {number}"
            (folder / f"{number:03d}.mp4").write_bytes(video)
            (folder / f"{number:03d}.txt").write_text(caption)
            writer.write(f"{number:03d}", {"mp4": video, "txt": caption.encode()})


def bare(videos: list[bytes], view: ClipView) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    return lambda: [read_clip(videos[n], ".mp4", view, rng) for n in rng.integers(len(videos), size=BATCH)]


def loaded(place: Path, view: ClipView, workers: int) -> Callable[[], object]:
    sources = (SourceConfig(str(place)),)
    batches = Batches(DataConfig(sources, size=view.size, batch=BATCH, lengths=(view.frames,), workers=workers), 2)
    return lambda: next(batches)


def of_workers() -> float:
    """Seconds of processor time that all workers have taken, once they have nothing more to do ahead."""
    seconds = 0.0
    for worker in multiprocessing.active_children():
        asleep = 0
        while asleep < 5:
            state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.02)
        seconds += time.clock_gettime(~worker.pid << 3 | 2)  # Linux's clock of another process
    return seconds


def seconds_of(batch: Callable[[], object], batches: int) -> float:
    """Of processor time, of this process and of the workers, but not of waiting for these."""
    workers, began = of_workers(), time.process_time()
    for _ in range(batches):
        batch()
    return time.process_time() - began + of_workers() - workers


def seconds_per_clip(ways: dict[str, Callable[[], object]], rounds: int, batches: int) -> dict[str, float]:
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):  # the first one warms up
        for name, batch in ways.items():
            costs[name] += [seconds_of(batch, batches)] * (turn >= 0)
    return {name: float(np.median(seconds)) / (batches * BATCH) for name, seconds in costs.items()}


def compare(name: str, videos: list[bytes], view: ClipView, rounds: int, batches: int) -> None:
    print(f"{name}: {len(videos)} files of {sum(map(len, videos)) / len(videos) / 1e3:.0f} kB")
    with tempfile.TemporaryDirectory() as root:
        places = {"folder": Path(root, "folder"), "shards": Path(root, "shards")}
        write(videos, *places.values())
        ways = {"bare": bare(videos, view)}
        ways |= {f"{kind}, {n} workers": loaded(place, view, n) for kind, place in places.items() for n in (0, 1)}
        cost = seconds_per_clip(ways, rounds, batches)
    for way, seconds in cost.items():
        over = "" if way == "bare" else f"   {100 * (seconds / cost['bare'] - 1):5.1f} % over bare; the bar is {BAR} %"
        print(f"  {way:18} {1 / seconds:7.1f} clips/s   {1000 * seconds:6.2f} ms a clip{over}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24, help="turns of each way, of which the median counts")
    parser.add_argument("--batches", type=int, default=1, help=f"batches of {BATCH} clips in a turn at large files")
    arguments = parser.parse_args()
    libraries = f"torch {torch.__version__}, PyAV {av.__version__}, numpy {np.__version__}"
    print(f"Python {platform.python_version()}, {libraries}; one thread")
    torch.set_num_threads(1)
    large, small = [make_video(seed) for seed in range(8)], [make_small_video(seed) for seed in range(64)]
    compare("128x128 of 640x360", large, VIEW, arguments.rounds, arguments.batches)
    compare("64x64 of 64x64", small, SMALL, arguments.rounds, 5 * arguments.batches)


if __name__ == "__main__":
    main()
