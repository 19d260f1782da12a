"""The mask schedule and the masks, for training and decoding alike (MaskGIT 2202.04200, section 3.3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["cosine", "linear", "square", "cubic", "root"]
"""Cosine, or 1 - progress to the power of 1, 2, 3 or 1/2."""
_POWERS = {"linear": 1, "square": 2, "cubic": 3, "root": 0.5}


def mask_ratio(progress: Tensor, schedule: Schedule = "cosine") -> Tensor:
    """Fraction of the ids that are masked at a progress in [0, 1]: 1 at the start of decoding, 0 at its end.

    Training samples `progress` uniformly; decoding walks it from 0 to 1.
    """
    if schedule == "cosine":
        return torch.cos(progress * math.pi / 2)
    return 1 - progress ** _POWERS[schedule]


def masked_count(progress: Tensor, free: Tensor, schedule: Schedule = "cosine") -> Tensor:
    """How many of `free` (int64) ids stay masked at `progress`: 0 at the end of decoding, else at least 1."""
    count = torch.ceil(mask_ratio(progress, schedule) * free - 1e-4).long()
    return torch.where(progress >= 1, 0, count.clamp_min(1)).minimum(free)


def random_mask(free: Tensor, count: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """A mask with exactly `count` (B,) True per sample, uniform over the True positions of `free` (bool (B, ...))."""
    noise = torch.rand(free.shape, generator=rng, device=free.device).masked_fill(~free, 2.0)
    rank = noise.flatten(1).argsort(1).argsort(1).view(free.shape)
    return rank < count.view(-1, *[1] * (free.ndim - 1))


def free_positions(grid: tuple[int, int, int], prefix: Tensor) -> Tensor:
    """Which ids of a grid (t, h, w) are generated when sample b is conditioned on its first `prefix[b]` latent frames.

    prefix: int64 (B,) -> bool (B, t, h, w).
    """
    t, h, w = grid
    after = torch.arange(t, device=prefix.device)[None, :] >= prefix[:, None]
    return after[:, :, None, None].expand(-1, -1, h, w)


def random_box(batch: int, grid: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """A random box of rows and columns of a grid (t, h, w) per sample, in all latent frames: bool (B, t, h, w)."""
    rows, columns = (_random_span(batch, length, rng) for length in grid[1:])
    return (rows[:, None, :, None] & columns[:, None, None, :]).expand(-1, grid[0], -1, -1)


def _random_span(batch: int, length: int, rng: torch.Generator) -> Tensor:
    """bool (B, length): a run of True per sample; all lengths of 1 or more are equally likely."""
    span = torch.randint(1, length + 1, (batch,), generator=rng)
    start = (torch.rand(batch, generator=rng) * (length + 1 - span)).long()
    position = torch.arange(length)
    return (position >= start[:, None]) & (position < (start + span)[:, None])
