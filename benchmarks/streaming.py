"""Memory and speed of encoding and decoding a long video as a stream.

`python benchmarks/streaming.py` sends ten minutes of 128x128 at 8 frames per second, a second at a time, through a
C-ViViT of the paper's sizes (random weights: its memory and rate are those of a trained one), and prints along the way

RSS    resident memory of the process now; the peak is its highest ever, Python and torch and the weights included
state  the states of both streams between chunks
rate   frames encoded and decoded per second since the line before

`--model shapes-64` uses the released tokenizer at 64x64; `--minutes` limits the wall time.
"""

from __future__ import annotations

import argparse
import platform
import re
import resource
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

import phenaki
from phenaki.media.convert import to_float
from phenaki.tokenizers import CViViT, CViViTConfig, Tokenizer
from phenaki.worlds.shapes import ShapesWorld

MARKS, BAR = 20, 2048


def build(model: str) -> Tokenizer:
    if model == "paper":
        torch.manual_seed(0)
        return CViViT(CViViTConfig()).eval()
    return phenaki.load(model).tokenizer


def seconds(size: tuple[int, int], fps: int) -> Iterator[Tensor]:
    """An endless video of the procedural world, (1, 3, fps, H, W) at a time."""
    world = ShapesWorld(size=size, frames=fps)
    return cycle([to_float(world[number].video) for number in range(20)])


def resident() -> float:
    """MB of this process in memory."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paper", help="'paper', or what phenaki.load takes")
    parser.add_argument("--frames", type=int, default=4800)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    tokenizer = build(arguments.model)
    size, fps = tuple(tokenizer.config.image_size), int(tokenizer.config.fps)
    millions = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"{arguments.model}, {millions:.1f} M parameters, {arguments.frames} frames of {size[0]}x{size[1]}"
    )
    encoder, decoder = tokenizer.encoder(), tokenizer.decoder()
    began = mark = time.perf_counter()
    done = before = 0
    for piece in seconds(size, fps):
        decoder.push(encoder.push(piece))
        done += fps
        now = time.perf_counter()
        stop = done >= arguments.frames or now - began > 60 * arguments.minutes
        if stop or done - before >= arguments.frames / MARKS:
            state = (encoder.state.nbytes + decoder.state.nbytes) / 2**20
            rate = (done - before) / (now - mark)
            print(f"{done:6} frames: RSS {resident():5.0f} MB, state {state:5.1f} MB, {rate:7.2f} frames/s", flush=True)
            mark, before = now, done
        if stop:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak RSS {peak:.0f} MB; the bar is {BAR}. {done} frames in {now - began:.0f} s")


if __name__ == "__main__":
    main()
