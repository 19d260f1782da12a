"""Rotary positions over one or more axes, and Fourier features of absolute coordinates."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def rotary_table(
    axes: tuple[int, ...], head_dim: int, device: torch.device, theta: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions on a grid (RoFormer, 2104.09864); axes split the frequencies.

    Args:
        axes: lengths of the grid, such as (t,), (h, w) or (t, h, w); N is their product.
        head_dim: even; each axis gets about head_dim / 2 / len(axes) frequencies.
        theta: the longest wavelength is about 2 pi theta; token grids are short, so less than in language models.

    Returns:
        cos, sin: float32 (N, head_dim), as `rotate` takes them.
    """
    pairs = head_dim // 2
    counts = [pairs // len(axes) + (i >= len(axes) - pairs % len(axes)) for i in range(len(axes))]
    coordinates = torch.meshgrid(*(torch.arange(n, device=device) for n in axes), indexing="ij")
    angles = torch.cat(
        [
            c.reshape(-1, 1) * theta ** (-torch.arange(count, device=device) / max(count, 1))
            for c, count in zip(coordinates, counts, strict=True)
        ],
        dim=-1,
    ).float()
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x[i], x[i + head_dim/2]) by its position's angle. x: (..., N, head_dim) -> same shape."""
    cos, sin = (part.to(x.dtype) for part in table)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


@lru_cache(maxsize=64)
def fourier_features(axes: tuple[int, ...], scales: tuple[int, ...], bands: int, device: torch.device) -> Tensor:
    """Absolute coordinates as sines and cosines: they tell the positions of identical (masked) tokens apart.

    Args:
        axes: lengths of the grid; N is their product.
        scales: per axis, the length of one unit: the trained one, also for grids of other lengths.
        bands: number of frequencies pi/2 * (1, 2, 4, ...) per axis.

    Returns:
        float32 (N, 2 * bands * len(axes)).
    """
    coordinates = torch.meshgrid(
        *((torch.arange(n, device=device) + 0.5) / s for n, s in zip(axes, scales, strict=True)), indexing="ij"
    )
    frequencies = math.pi / 2 * 2.0 ** torch.arange(bands, device=device)
    angles = torch.stack(coordinates, dim=-1).reshape(-1, len(axes), 1) * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)
