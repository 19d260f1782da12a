"""A training step of the convolutional tokenizer, compared with plain channels-first 3D networks of the same size.

`python benchmarks/conv3d.py` prints for a clip of 11 x 128 x 128 pixels in bfloat16: seconds of a step (forward,
backward, AdamW; the fastest of some), by the clock and by the processor's time of all threads together, which tells
more on a busy machine; how many times ours that is; the peak memory above what the model holds when built.

The plain networks are of `nn.Conv3d` alone: residual blocks of a group norm, a depthwise 3x3x3 and two pointwise
convolutions, as many parameters, the same strides. `plain` has its first blocks at the full size of the frames, as such
networks do; `plain, from a half` begins at half of it, as ours does, so that layout and kernels are all that differs.
Each is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

import torch
from measuring import measure_apart, peak_memory
from torch import Tensor, nn

from phenaki.core.precision import autocast
from phenaki.tokenizers import Conv3D, Conv3DConfig

FRAMES, SIZE, BAR = 11, 128, 3.0
Strides = tuple[int, int, int]


class PlainBlock(nn.Sequential):
    def __init__(self, width: int):
        super().__init__(
            nn.GroupNorm(16, width),
            nn.Conv3d(width, width, 3, padding=1, groups=width),
            nn.Conv3d(width, 4 * width, 1),
            nn.SiLU(),
            nn.Conv3d(4 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def plain(levels: list[tuple[Strides, int, int]]) -> nn.Sequential:
    """An autoencoder of (B, 3, T, H, W), T even; a level: its stride, width, and blocks on the way down and up."""
    down, up, inputs = [], [], 3
    for stride, width, blocks in levels:
        kernel = (3, 3, 3) if stride == (1, 1, 1) else stride
        padding = [(size - step) // 2 for size, step in zip(kernel, stride, strict=True)]
        down += [nn.Conv3d(inputs, width, kernel, stride, padding), *(PlainBlock(width) for _ in range(blocks))]
        up = [
            *(PlainBlock(width) for _ in range(blocks)),
            nn.ConvTranspose3d(width, inputs, kernel, stride, padding),
            *up,
        ]
        inputs = width
    return nn.Sequential(*down, *up)


DEEP = [((2, 2, 2), 256, 3), ((1, 2, 2), 512, 9)]  # of a quarter and an eighth of the rows and columns
NETWORKS = {
    "ours": lambda: Conv3D(Conv3DConfig()),
    "plain": lambda: plain([((1, 1, 1), 32, 3), ((1, 2, 2), 64, 3), *DEEP]),
    "plain, from a half": lambda: plain([((1, 2, 2), 64, 3), *DEEP]),
}


def measure(name: str, batch: int, repeats: int) -> dict[str, float]:
    """Seconds of the fastest step after the first, MiB of peak memory above the model as built, parameters."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    frames = FRAMES if name == "ours" else FRAMES + 1  # ours puts its learned frame in front
    video = torch.rand(batch, 3, frames, SIZE, SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    built, wall, processor = peak_memory(), [], []
    for _ in range(repeats + 1):
        began, worked = time.perf_counter(), time.process_time()
        with autocast(video.device, "bfloat16"):
            out = model(video)
        made = out.video if name == "ours" else out
        (made.float() - video).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = {"wall": min(wall[1:]), "processor": min(processor[1:])}
    return seconds | {"memory": peak_memory() - built, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, batch, repeats = args.measure
        print(json.dumps(measure(name, int(batch), int(repeats))))
        return
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {cores} cores, {threads} threads")
    print(f"{'network':18}  parameters   s a step  times ours   processor s  times ours (bar {BAR:g})  peak MiB")
    ours: dict[str, float] = {}
    for name in NETWORKS:
        found = measure_apart(__file__, name, args.batch, args.repeats)
        ours = ours or found
        columns = [f"{found[clock]:11.2f} {found[clock] / ours[clock]:11.1f}" for clock in ("wall", "processor")]
        print(
            f"{name:18} {found['parameters'] / 1e6:9.1f} M {columns[0]}   {columns[1]} {found['memory']:17.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
