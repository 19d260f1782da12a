"""THE mask schedule and the masks: what training hides is what decoding will have to fill (MaskGIT 2202.04200, 3.3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["cosine", "linear", "square", "cubic", "root", "sqrt"]
"""Cosine, and 1 - progress to the power of 1, 2, 3 or 1/2; "sqrt" is what version 0.1 calls "root"."""
_POWERS = {"linear": 1, "square": 2, "cubic": 3, "root": 0.5, "sqrt": 0.5}


def masked_share(progress: Tensor, schedule: Schedule = "cosine") -> Tensor:
    """Share of the ids that are masked at a progress in [0, 1]: 1 at the start of decoding, 0 at its end.

    Training draws `progress` uniformly; decoding walks it from 0 to 1.
    """
    if schedule == "cosine":
        return torch.cos(progress * math.pi / 2)
    return 1 - progress ** _POWERS[schedule]


def masked_count(progress: Tensor, free: Tensor, schedule: Schedule = "cosine") -> Tensor:
    """How many of `free` (int64) ids stay masked at `progress`: 0 when decoding is done, else at least 1 of them."""
    count = torch.ceil(masked_share(progress, schedule) * free - 1e-4).long()
    return torch.where(progress >= 1, 0, count.clamp_min(1)).minimum(free)


def random_mask(free: Tensor, count: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """A mask with exactly `count` (B,) True per sample, drawn evenly among the True of `free` (bool (B, ...))."""
    noise = torch.rand(free.shape, generator=rng, device=free.device).masked_fill(~free, 2.0)
    rank = noise.flatten(1).argsort(1).argsort(1).view(free.shape)
    return rank < count.view(-1, *[1] * (free.ndim - 1))


def free_positions(grid: tuple[int, int, int], prefix: Tensor) -> Tensor:
    """Which ids of a grid (t, h, w) are to be generated when sample b's first `prefix[b]` time steps are given.

    prefix: int64 (B,) -> bool (B, t, h, w).
    """
    t, h, w = grid
    after = torch.arange(t, device=prefix.device)[None, :] >= prefix[:, None]
    return after[:, :, None, None].expand(-1, -1, h, w)


def random_box(batch: int, grid: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """A box of random rows and columns of a grid (t, h, w) for each sample, in all time steps: bool (B, t, h, w)."""
    sides = [_random_span(batch, length, rng) for length in grid[1:]]
    return (sides[0][:, None, :, None] & sides[1][:, None, None, :]).expand(-1, grid[0], -1, -1)


def _random_span(batch: int, length: int, rng: torch.Generator) -> Tensor:
    """At least one place, in a row, of `length`: bool (B, length). Each length of a span is as likely as any other."""
    span = torch.randint(1, length + 1, (batch,), generator=rng)
    start = (torch.rand(batch, generator=rng) * (length + 1 - span)).long()
    place = torch.arange(length)
    return (place >= start[:, None]) & (place < (start + span)[:, None])
