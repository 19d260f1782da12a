"""Token unmasking orders: by what was sampled, or planned beforehand.

"confidence" keeps the most likely ids, "critic" those that a critic takes for real; both depend on what was sampled.
"random" and "halton" are planned.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from phenaki.sampling.noise import Rng, uniform

Order = Literal["confidence", "random", "halton", "critic"]
_BASES = (5, 2, 3)  # of the sequence along t, h, w; for one latent frame the last two are those of an image


def planned_order(order: Order, shape: torch.Size, rng: Rng, device: torch.device) -> Tensor | None:
    """Priorities float (B, t, h, w), the highest is filled in first; None for an order that depends on the samples."""
    if order == "random":
        return uniform(torch.full(shape[:1], math.prod(shape[1:])), rng, device).view(shape)
    if order == "halton":
        return -halton(tuple(shape[1:])).to(device, torch.float).expand(shape)
    return None


@lru_cache(maxsize=16)
def halton(grid: tuple[int, int, int]) -> Tensor:
    """The rank of each cell of a grid (t, h, w) in the order of a Halton sequence: int64 (t, h, w), 0 is first.

    The sequence fills the unit cube evenly at any length; a cell's turn comes with the first point that falls into it
    (2503.17076, there in two dimensions), which is less even for the last cells.
    """
    t, h, w = grid
    ranks = torch.full((t * h * w,), -1)
    found, begin = 0, 1
    while found < len(ranks):
        points = torch.arange(begin, begin + 4 * len(ranks))
        in_t, in_h, in_w = (_cell(points, base, size) for base, size in zip(_BASES, grid, strict=True))
        cells = (in_t * h + in_h) * w + in_w
        cells = cells[ranks[cells] < 0].tolist()
        for cell in dict.fromkeys(cells):
            ranks[cell] = found
            found += 1
        begin += len(points)
    return ranks.view(grid)


def _cell(index: Tensor, base: int, size: int) -> Tensor:
    """Which of `size` equal parts of [0, 1) the radical inverse of `index` falls into, in integer arithmetic."""
    mirrored, scale = torch.zeros_like(index), 1
    while index.any():
        mirrored = mirrored * base + index % base
        index, scale = index // base, scale * base
    return mirrored * size // scale
