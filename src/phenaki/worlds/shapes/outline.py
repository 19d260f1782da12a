"""How well the outline of a region fits each of the six shapes, in all rotations."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from phenaki.worlds.shapes.render import signed_distance
from phenaki.worlds.shapes.scene import SHAPES

_CELLS = 24  # per side of the grid on which outlines are compared
_SPAN = 1.05  # half the grid's width, in units of the square root of the area
PERIOD = {"square": 90.0, "triangle": 120.0, "star": 72.0, "cross": 90.0}  # degrees after which a shape looks the same
STEP = 6.0  # degrees between templates


@lru_cache(maxsize=1)
def unit_areas() -> dict[str, float]:
    """Area of each shape at radius 1."""
    x, y = np.meshgrid(np.linspace(-1.3, 1.3, 800), np.linspace(-1.3, 1.3, 800))
    return {s: float((signed_distance(s, x, y, np.float64(1)) < 0).mean() * 2.6**2) for s in SHAPES}


@lru_cache(maxsize=64)
def templates(bucket: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Soft outlines of area 1 for regions of about 1.1**bucket px (square root of the area).

    (K, cells) coverage, the shape and the angle in degrees of each.
    """
    root = 1.1**bucket
    fine = 3 * _CELLS
    at = ((np.arange(fine) + 0.5) / fine * 2 - 1) * _SPAN
    x, y = np.meshgrid(at, at)
    names, angles, covers = [], [], []
    for shape in SHAPES:
        radius = 1 / math.sqrt(unit_areas()[shape])
        for angle in np.arange(0.0, PERIOD.get(shape, STEP), STEP):
            c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            distance = signed_distance(shape, x * c + y * s, y * c - x * s, np.float32(radius))
            cover = np.clip(0.5 - distance / (at[1] - at[0]), 0, 1)
            names.append(shape)
            angles.append(angle)
            covers.append(cover)
    # The blur of an outline by pixels, a lossy codec (half a px) and the sampling on the grid.
    cell = 2 * _SPAN / _CELLS
    sigma = math.sqrt((0.25 + 1 / 12 + max(cell * root, 1.0) ** 2 / 6) / root**2)
    kernel = np.exp(-0.5 * np.square((at[:, None] - at[None, :]) / sigma))
    kernel = (kernel / np.exp(-0.5 * np.square(np.arange(-200, 201) * (at[1] - at[0]) / sigma)).sum())[1::3]
    soft = np.einsum("iy,kyx,jx->kij", kernel, np.stack(covers), kernel, optimize=True)
    return soft.reshape(len(names), -1).astype(np.float32), names, np.asarray(angles)


def compare_outlines(cover: np.ndarray, area: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Soft regions (N, H, W) against all templates: intersection over union, and the missing fraction of the inside.

    Both (N, K).
    """
    count, height, width = cover.shape
    root = np.sqrt(area)
    cell = np.maximum(2 * _SPAN * root / _CELLS, 1.0)[:, None, None]
    at = ((np.arange(_CELLS) + 0.5) / _CELLS * 2 - 1) * _SPAN

    def weights(middle: np.ndarray, size: int) -> np.ndarray:
        position = (middle[:, None] + at * root[:, None])[..., None]
        return np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - position) / cell) / cell

    rows, cols = weights(center[:, 1], height), weights(center[:, 0], width)
    grid = np.clip(rows @ cover @ cols.transpose(0, 2, 1), 0, 1).reshape(count, _CELLS * _CELLS).astype(np.float32)
    buckets = np.clip(np.round(np.log(root) / math.log(1.1)), 10, 45).astype(int)
    iou, missing = np.empty((2, count, len(templates(20)[1])), np.float32)
    for bucket in np.unique(buckets):
        selected = buckets == bucket
        soft = templates(int(bucket))[0]
        both = np.minimum(grid[selected][:, None], soft[None]).sum(-1)
        iou[selected] = both / (grid[selected].sum(-1)[:, None] + soft.sum(-1)[None] - both)
        inside = (soft > 0.95).astype(np.float32)
        missing[selected] = (grid[selected] < 0.6).astype(np.float32) @ inside.T / np.maximum(inside.sum(-1), 1)
    return iou, missing
