"""Segmentation: the background of each frame, and the regions that stand out from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes.outline import compare_outlines
from phenaki.worlds.shapes.render import background_image
from phenaki.worlds.shapes.scene import BACKGROUNDS

# Distances between colours are Euclidean in RGB 0..255. Every colour is more than 110 from every background.
FAINT = 28.0  # below this, after a light blur, nothing is visible: 9 standard deviations of noise at 30 dB
STRONG = 45.0  # a region of at least this contrast is an object, between the two it is the rest of a fading one
SMALLEST = 20  # px; a smaller region is a speck
MAX_REGIONS = 4  # per frame; a video with more is rejected anyway


@lru_cache(maxsize=64)
def _resampler(source: int, target: int) -> np.ndarray:
    """(target, source) weights of a triangle kernel, wide enough not to alias."""
    ratio = source / target
    centers = (np.arange(target) + 0.5) * ratio - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(source) - centers[:, None]) / max(1.0, ratio))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def to_frames(video: np.ndarray) -> np.ndarray:
    """uint8, or float in 0..1, (T, H, W, 3) -> float32 (T, h, w, 3) in 0..255 with min(h, w) = 64."""
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3 or video.shape[0] < 1 or min(video.shape[1:3]) < 16:
        raise PhenakiError(f"a video to check is an array (T, H, W, 3), 16 px or more high and wide, not {video.shape}")
    if video.dtype != np.uint8:
        if not np.issubdtype(video.dtype, np.floating):
            raise PhenakiError(f"a video to check is uint8, or float in 0..1, not {video.dtype}")
        if not np.isfinite(video).all():
            raise PhenakiError("the video has non-finite values")
        video = np.clip(video, 0, 1) * 255
    frames = video.astype(np.float32)
    height, width = frames.shape[1:3]
    if min(height, width) != 64:
        scale = 64 / min(height, width)
        rows, cols = _resampler(height, round(height * scale)), _resampler(width, round(width * scale))
        frames = np.einsum("yh,thwc->tywc", rows, frames, optimize=True)
        frames = np.einsum("xw,tywc->tyxc", cols, frames, optimize=True)
    return np.ascontiguousarray(frames)


def fit_background(frames: np.ndarray) -> np.ndarray:
    """Background of each frame (T, H, W, 3): the affine function of x and y that fits most pixels."""
    count, height, width, _ = frames.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y], -1).reshape(-1, 3).astype(np.float32)
    products = (basis[:, :, None] * basis[:, None, :]).reshape(-1, 9)
    pixels = frames.reshape(count, -1, 3)
    fitted = np.median(pixels, axis=1, keepdims=True)
    ridge = np.diag([1e-3, 1.0, 1.0])  # matters only if hardly any pixel fits
    for reach in (75.0, 40.0, 25.0, 20.0):
        near = (np.square(pixels - fitted).sum(-1) < reach**2).astype(np.float32)
        normal = (near @ products).reshape(count, 3, 3) + ridge
        moment = basis.T @ (pixels * near[..., None])
        fitted = basis @ np.linalg.solve(normal, moment).astype(np.float32)
    return fitted.reshape(frames.shape)


def background_name(background: np.ndarray) -> str | None:
    """Name of one fitted background (H, W, 3)."""
    height, width, _ = background.shape
    corners = background[:: height - 1, :: width - 1].reshape(-1, 3)
    mean = corners.mean(0)
    if np.linalg.norm(corners - mean, axis=-1).max() < 20:
        distance = {n: float(np.linalg.norm(mean - np.asarray(c))) for n, c in BACKGROUNDS.items() if c is not None}
        name = min(distance, key=distance.__getitem__)
        return name if distance[name] < 35 else None
    for horizontal in (False, True):
        if np.abs(corners - background_image("gradient", 2, 2, horizontal).reshape(-1, 3)).max() < 28:
            return "gradient"
    return None


def _shifted(array: np.ndarray, step: int, axis: int, fill: float) -> np.ndarray:
    out = np.full_like(array, fill)
    source, target = [slice(None)] * array.ndim, [slice(None)] * array.ndim
    source[axis] = slice(max(0, -step), array.shape[axis] - max(0, step))
    target[axis] = slice(max(0, step), array.shape[axis] - max(0, -step))
    out[tuple(target)] = array[tuple(source)]
    return out


def spread(array: np.ndarray, radius: int) -> np.ndarray:
    """Maximum over a square of side 2 * radius + 1, on the axes 1 and 2."""
    for axis in (1, 2):
        out = array
        for step in range(1, radius + 1):
            for signed in (step, -step):
                out = np.maximum(out, _shifted(array, signed, axis, 0))
        array = out
    return array


def soften(array: np.ndarray) -> np.ndarray:
    """Binomial blur (1 2 1) / 4 on the axes 1 and 2 of (T, H, W, C)."""
    for axis, pad in ((1, ((0, 0), (1, 1), (0, 0), (0, 0))), (2, ((0, 0), (0, 0), (1, 1), (0, 0)))):
        wide = np.pad(array, pad, mode="edge")
        size = array.shape[axis]
        a, b, c = (np.take(wide, range(k, k + size), axis) for k in range(3))
        array = 0.25 * (a + c) + 0.5 * b
    return array


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected regions (8 neighbours) in each frame of a boolean (T, H, W): int labels, 0 outside, and how many."""
    frames, height, width = mask.shape
    padded = np.full((frames, height + 1, width + 2), -1, np.int64)  # a border of "outside" avoids tests for edges
    inner = padded[:, :height, 1:-1]
    count = int(mask.sum())
    inner[mask] = np.arange(count)
    here = inner[mask]
    flat = padded.reshape(-1)
    t, y, x = np.nonzero(mask)
    at = (t * (height + 1) + y) * (width + 2) + x + 1
    near = np.stack([flat[at + 1], flat[at + width + 1], flat[at + width + 2], flat[at + width + 3]])
    edge = near >= 0
    a, b = np.broadcast_to(here, near.shape)[edge], near[edge]
    parent = np.arange(count)
    while a.size:
        root_a, root_b = parent[a], parent[b]
        low = np.minimum(root_a, root_b)
        np.minimum.at(parent, np.maximum(root_a, root_b), low)
        while (parent != (upper := parent[parent])).any():
            parent = upper
        distinct = parent[a] != parent[b]
        a, b = a[distinct], b[distinct]
    roots, compact = np.unique(parent, return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = compact + 1
    return labels, len(roots)


@dataclass
class Regions:
    """Regions that stand out clearly, N over all frames: position, size, colour and outline."""

    frame: np.ndarray  # (N,) int
    mask: np.ndarray  # (N, H, W) bool
    area: np.ndarray  # (N,) px
    center: np.ndarray  # (N, 2) x, y
    color: np.ndarray  # (N, 3)
    axis: np.ndarray  # (N, 3) from the colour of the background to its own
    contrast: np.ndarray  # (N,) length of the axis
    motley: np.ndarray  # (N,) fraction of the inside that has another colour
    iou: np.ndarray  # (N, K) intersection over union with each template
    missing: np.ndarray  # (N, K) fraction of each template's inside that the region lacks


def find_regions(frames: np.ndarray, background: np.ndarray, blurred: np.ndarray) -> Regions:
    count, height, width, _ = frames.shape
    # Half of the highest contrast nearby, so that blur does not move edges.
    labels, number = label(blurred > np.maximum(FAINT, 0.5 * spread(blurred, 2)))
    flat = labels.reshape(-1)
    size = np.bincount(flat, minlength=number + 1)[1:]
    strength = np.bincount(flat, blurred.reshape(-1), minlength=number + 1)[1:] / np.maximum(size, 1)
    first = np.zeros(number, np.int64)
    inside = flat > 0
    first[flat[inside] - 1] = np.nonzero(inside)[0] // (height * width)
    keep = np.nonzero((size >= SMALLEST) & (strength >= STRONG))[0]
    keep = keep[np.argsort(-size[keep], kind="stable")]
    order = np.concatenate([keep[first[keep] == t][:MAX_REGIONS] for t in range(count)])
    frame = first[order]
    mask = labels[frame] == (order + 1)[:, None, None]

    total = len(order)
    around, grown = spread(mask, 2), spread(mask, 1)
    for n in range(total):
        for m in range(total):
            if m != n and frame[m] == frame[n]:
                around[n] &= ~grown[m]
    inner = ~spread(~mask, 1)
    color = np.empty((total, 3), np.float32)
    ground = np.empty((total, 3), np.float32)
    motley = np.empty(total)
    for n in range(total):
        values = blurred[frame[n]][mask[n]]
        core = mask[n].copy()
        core[mask[n]] = values >= np.quantile(values, 0.6)
        color[n] = np.median(frames[frame[n]][core], axis=0)
        ground[n] = background[frame[n]][core].mean(0)
        core = inner[n] if inner[n].sum() >= 8 else core
        motley[n] = (np.linalg.norm(frames[frame[n]][core] - color[n], axis=-1) > 60).mean()
    axis = color - ground
    contrast = np.linalg.norm(axis, axis=-1)
    difference = frames[frame] - background[frame]
    cover = np.einsum("nhwc,nc->nhw", difference, axis / np.maximum(contrast, 1)[:, None] ** 2) * around
    area = np.maximum(cover.sum((1, 2)), 1.0)
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    center = np.stack([(cover.sum(1) @ xs) / area, (cover.sum(2) @ ys) / area], -1)
    iou, missing = compare_outlines(cover, area, center)
    return Regions(frame, mask, area, center, color, axis, contrast, motley, iou, missing)
