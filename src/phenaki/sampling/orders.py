"""In which order the places of a grid are filled in: by what was drawn there, or as planned beforehand.

"confidence" keeps the ids that are likeliest, "critic" those that a critic takes for real; both see what was drawn.
"random" and "halton" say beforehand which places are next.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Order = Literal["confidence", "random", "halton", "critic"]
_BASES = (5, 2, 3)  # of the sequence along t, h, w; a grid of one time step has the two of an image


def planned(order: Order, shape: torch.Size, rng: torch.Generator, device: torch.device) -> Tensor | None:
    """float (B, t, h, w), the highest to be filled in first; None for an order that depends on what is drawn."""
    if order == "random":
        return torch.rand(shape, generator=rng, device=device)
    if order == "halton":
        return -halton(tuple(shape[1:])).to(device, torch.float).expand(shape)
    return None


@lru_cache(maxsize=16)
def halton(grid: tuple[int, int, int]) -> Tensor:
    """The place of each cell of a grid (t, h, w) in the order of a Halton sequence: int64 (t, h, w), 0 is the first.

    The points of the sequence fill the unit cube evenly, however many were taken; a cell's turn comes with the first
    point that lies in it (2503.17076, there in two dimensions), which is less even for the last cells.
    """
    t, h, w = grid
    places = torch.full((t * h * w,), -1)
    found, begin = 0, 1
    while found < len(places):
        points = torch.arange(begin, begin + 4 * len(places))
        in_t, in_h, in_w = (_cell(points, base, size) for base, size in zip(_BASES, grid, strict=True))
        cells = (in_t * h + in_h) * w + in_w
        cells = cells[places[cells] < 0].tolist()
        for cell in dict.fromkeys(cells):
            places[cell] = found
            found += 1
        begin += len(points)
    return places.view(grid)


def _cell(index: Tensor, base: int, size: int) -> Tensor:
    """In which of `size` equal parts of [0, 1) the digits of `index`, mirrored at the point, lie; in whole numbers."""
    mirrored, scale = torch.zeros_like(index), 1
    while index.any():
        mirrored = mirrored * base + index % base
        index, scale = index // base, scale * base
    return mirrored * size // scale
