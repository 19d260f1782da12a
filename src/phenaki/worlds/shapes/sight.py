"""What is to be seen in a video of the world of shapes: from pixels alone, knowing no claim, judged in every frame.

`look` fits the background of each frame, takes the connected regions that stand out from it and follows them through
time. For each of them it compares the outline with the six shapes in all their rotations, and reads colour, size and
action off the track. All lengths are in px of a frame whose smaller side is 64: other videos are brought to it first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes.render import background_image, signed_distance
from phenaki.worlds.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    MOVES,
    REFERENCE_FRAMES,
    SHAPES,
    TRAVEL,
    TURN,
    TURNING,
)

# Distances between colours are Euclidean in RGB 0..255. Every colour is more than 110 from every background.
FAINT = 28.0  # below this, after a light blur, nothing is seen: 9 standard deviations of noise at 30 dB
STRONG = 45.0  # a region of at least this contrast is an object, between the two it is the last of a fading one
CLEAR = 60.0  # contrast from which outline and position can be trusted
COLOR_REACH = 60.0  # a colour further than this from all eight has no name
COLOR_DRIFT = 50.0  # how far the colour of an object may stray from its own median
HALO, HALO_WIDTH = 0.25, 8  # what a lossy codec may leave around an object: share of its contrast, px
SAME_HUE = 0.9  # cosine between the directions in which a half and a fully visible object differ from the background
SPECKS = 6  # px of anything else that are overlooked in a frame
SMALLEST = 20  # px; a smaller region is a speck
MOST = 4  # regions looked at in a frame; a video with more is refused anyway
JUMP = 6.0  # px from frame to frame beyond which it is not the same object
PATCHES = 0.25  # share of the inside that may have another colour in a frame
HOLES = 0.03  # share of the inside, on average over the frames, that may be missing
LIKENESS = 0.72  # least intersection over union with the best template
EXCEPTIONS = 10  # of this many frames, one may look more like another shape than like the one the object has

_SIDE = 24  # cells of the grid on which outlines are compared
_SPAN = 1.05  # half the grid's width, in units of the square root of the area
_PERIOD = {"square": 90.0, "triangle": 120.0, "star": 72.0, "cross": 90.0}  # degrees after which a shape looks the same
_STEP = 6.0  # degrees between templates


@dataclass(frozen=True)
class SeenObject:
    """What an object is and does; None where it cannot be told. `faults`: why it is not one steady object."""

    shape: str | None
    color: str | None  # at the start of the clip
    target_color: str | None  # at its end, where that is another
    size: str | None  # at the start of the clip
    action: str | None
    first: tuple[float, float]  # x, y where it is first and last seen, in px of a 64-px frame
    last: tuple[float, float]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What is seen in a video. `faults`: what is seen besides objects and a steady background."""

    objects: tuple[SeenObject, ...]
    background: str | None
    faults: tuple[str, ...]


# --- pixels -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _resampler(source: int, target: int) -> np.ndarray:
    """(target, source) weights of a triangle kernel, wide enough not to alias."""
    ratio = source / target
    centers = (np.arange(target) + 0.5) * ratio - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(source) - centers[:, None]) / max(1.0, ratio))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _frames(video: np.ndarray) -> np.ndarray:
    """uint8, or float in 0..1, (T, H, W, 3) -> float32 (T, h, w, 3) in 0..255 with min(h, w) = 64."""
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3 or video.shape[0] < 1 or min(video.shape[1:3]) < 16:
        raise PhenakiError(f"a video to check is an array (T, H, W, 3), 16 px or more high and wide, not {video.shape}")
    if video.dtype != np.uint8:
        if not np.issubdtype(video.dtype, np.floating):
            raise PhenakiError(f"a video to check is uint8, or float in 0..1, not {video.dtype}")
        if not np.isfinite(video).all():
            raise PhenakiError("the video has values that are not finite")
        video = np.clip(video, 0, 1) * 255
    frames = video.astype(np.float32)
    height, width = frames.shape[1:3]
    if min(height, width) != 64:
        scale = 64 / min(height, width)
        rows, cols = _resampler(height, round(height * scale)), _resampler(width, round(width * scale))
        frames = np.einsum("yh,thwc->tywc", rows, frames, optimize=True)
        frames = np.einsum("xw,tywc->tyxc", cols, frames, optimize=True)
    return np.ascontiguousarray(frames)


def _fit_background(frames: np.ndarray) -> np.ndarray:
    """Background of each frame (T, H, W, 3): the affine function of x and y that most pixels follow."""
    count, height, width, _ = frames.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y], -1).reshape(-1, 3).astype(np.float32)
    products = (basis[:, :, None] * basis[:, None, :]).reshape(-1, 9)
    pixels = frames.reshape(count, -1, 3)
    fitted = np.median(pixels, axis=1, keepdims=True)
    ridge = np.diag([1e-3, 1.0, 1.0])  # only matters where hardly a pixel fits
    for reach in (75.0, 40.0, 25.0, 20.0):
        near = (np.square(pixels - fitted).sum(-1) < reach**2).astype(np.float32)
        normal = (near @ products).reshape(count, 3, 3) + ridge
        moment = basis.T @ (pixels * near[..., None])
        fitted = basis @ np.linalg.solve(normal, moment).astype(np.float32)
    return fitted.reshape(frames.shape)


def _background_name(background: np.ndarray) -> str | None:
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


def _spread(array: np.ndarray, radius: int) -> np.ndarray:
    """Maximum over a square of side 2 * radius + 1, on the axes 1 and 2."""
    for axis in (1, 2):
        out = array
        for step in range(1, radius + 1):
            for signed in (step, -step):
                out = np.maximum(out, _shifted(array, signed, axis, 0))
        array = out
    return array


def _soften(array: np.ndarray) -> np.ndarray:
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
    place = np.full((frames, height + 1, width + 2), -1, np.int64)  # a border of "outside" spares all tests for edges
    inner = place[:, :height, 1:-1]
    count = int(mask.sum())
    inner[mask] = np.arange(count)
    here = inner[mask]
    flat = place.reshape(-1)
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
        apart = parent[a] != parent[b]
        a, b = a[apart], b[apart]
    roots, compact = np.unique(parent, return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = compact + 1
    return labels, len(roots)


# --- outlines ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _unit_areas() -> dict[str, float]:
    """Area of each shape at radius 1."""
    x, y = np.meshgrid(np.linspace(-1.3, 1.3, 800), np.linspace(-1.3, 1.3, 800))
    return {s: float((signed_distance(s, x, y, np.float64(1)) < 0).mean() * 2.6**2) for s in SHAPES}


@lru_cache(maxsize=64)
def _templates(bucket: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Soft outlines of area 1 for regions of about 1.1**bucket px (square root of the area).

    (K, cells) coverage, the shape and the angle in degrees of each.
    """
    root = 1.1**bucket
    fine = 3 * _SIDE
    at = ((np.arange(fine) + 0.5) / fine * 2 - 1) * _SPAN
    x, y = np.meshgrid(at, at)
    names, angles, covers = [], [], []
    for shape in SHAPES:
        radius = 1 / math.sqrt(_unit_areas()[shape])
        for angle in np.arange(0.0, _PERIOD.get(shape, _STEP), _STEP):
            c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            distance = signed_distance(shape, x * c + y * s, y * c - x * s, np.float32(radius))
            cover = np.clip(0.5 - distance / (at[1] - at[0]), 0, 1)
            names.append(shape)
            angles.append(angle)
            covers.append(cover)
    # The blur that pixels, a lossy codec (half a px) and the sampling on the grid put on an outline.
    cell = 2 * _SPAN / _SIDE
    sigma = math.sqrt((0.25 + 1 / 12 + max(cell * root, 1.0) ** 2 / 6) / root**2)
    kernel = np.exp(-0.5 * np.square((at[:, None] - at[None, :]) / sigma))
    kernel = (kernel / np.exp(-0.5 * np.square(np.arange(-200, 201) * (at[1] - at[0]) / sigma)).sum())[1::3]
    soft = np.einsum("iy,kyx,jx->kij", kernel, np.stack(covers), kernel, optimize=True)
    return soft.reshape(len(names), -1).astype(np.float32), names, np.asarray(angles)


def _compare_outlines(cover: np.ndarray, area: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Soft regions (N, H, W) with all templates: intersection over union, and the share of the inside that is missing.

    Both (N, K).
    """
    count, height, width = cover.shape
    root = np.sqrt(area)
    cell = np.maximum(2 * _SPAN * root / _SIDE, 1.0)[:, None, None]
    at = ((np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1) * _SPAN

    def weights(middle: np.ndarray, size: int) -> np.ndarray:
        position = (middle[:, None] + at * root[:, None])[..., None]
        return np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - position) / cell) / cell

    rows, cols = weights(center[:, 1], height), weights(center[:, 0], width)
    grid = np.clip(rows @ cover @ cols.transpose(0, 2, 1), 0, 1).reshape(count, _SIDE * _SIDE).astype(np.float32)
    buckets = np.clip(np.round(np.log(root) / math.log(1.1)), 10, 45).astype(int)
    alike, missing = np.empty((2, count, len(_templates(20)[1])), np.float32)
    for bucket in np.unique(buckets):
        chosen = buckets == bucket
        soft = _templates(int(bucket))[0]
        both = np.minimum(grid[chosen][:, None], soft[None]).sum(-1)
        alike[chosen] = both / (grid[chosen].sum(-1)[:, None] + soft.sum(-1)[None] - both)
        inside = (soft > 0.95).astype(np.float32)
        missing[chosen] = (grid[chosen] < 0.6).astype(np.float32) @ inside.T / np.maximum(inside.sum(-1), 1)
    return alike, missing


# --- regions and tracks -----------------------------------------------------------------------------------------------


@dataclass
class _Regions:
    """Regions that stand out clearly, N over all frames: where, how large, of what colour, of what outline."""

    frame: np.ndarray  # (N,) int
    mask: np.ndarray  # (N, H, W) bool
    area: np.ndarray  # (N,) px
    center: np.ndarray  # (N, 2) x, y
    color: np.ndarray  # (N, 3)
    axis: np.ndarray  # (N, 3) from the colour of the background to its own
    contrast: np.ndarray  # (N,) length of the axis
    motley: np.ndarray  # (N,) share of the inside that has another colour
    alike: np.ndarray  # (N, K) intersection over union with each template
    missing: np.ndarray  # (N, K) share of each template's inside that the region lacks


def _find_regions(frames: np.ndarray, background: np.ndarray, blurred: np.ndarray) -> _Regions:
    count, height, width, _ = frames.shape
    # Half of the highest contrast around: so an edge stays where it is, whatever the blur.
    labels, number = label(blurred > np.maximum(FAINT, 0.5 * _spread(blurred, 2)))
    flat = labels.reshape(-1)
    size = np.bincount(flat, minlength=number + 1)[1:]
    strength = np.bincount(flat, blurred.reshape(-1), minlength=number + 1)[1:] / np.maximum(size, 1)
    first = np.zeros(number, np.int64)
    inside = flat > 0
    first[flat[inside] - 1] = np.nonzero(inside)[0] // (height * width)
    keep = np.nonzero((size >= SMALLEST) & (strength >= STRONG))[0]
    keep = keep[np.argsort(-size[keep], kind="stable")]
    order = np.concatenate([keep[first[keep] == t][:MOST] for t in range(count)])
    frame = first[order]
    mask = labels[frame] == (order + 1)[:, None, None]

    total = len(order)
    around, grown = _spread(mask, 2), _spread(mask, 1)
    for n in range(total):
        for m in range(total):
            if m != n and frame[m] == frame[n]:
                around[n] &= ~grown[m]
    inner = ~_spread(~mask, 1)
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
    alike, missing = _compare_outlines(cover, area, center)
    return _Regions(frame, mask, area, center, color, axis, contrast, motley, alike, missing)


def _follow(regions: _Regions, frames: int) -> list[np.ndarray]:
    """Tracks through time: each an int array (T,) of region numbers, -1 where the object is not seen."""
    tracks: list[np.ndarray] = []
    latest: list[int] = []
    for t in range(frames):
        here = list(np.nonzero(regions.frame == t)[0])
        pairs = sorted(
            (float(np.hypot(*(regions.center[n] - regions.center[latest[k]]))), k, n)
            for k in range(len(tracks))
            for n in here
        )
        for distance, k, n in pairs:
            if distance <= JUMP and tracks[k][t] < 0 and n in here:
                tracks[k][t] = latest[k] = n
                here.remove(n)
        for n in here:
            track = np.full(frames, -1)
            track[t] = n
            tracks.append(track)
            latest.append(int(n))
    return tracks


def _specks(regions: _Regions, tracks: list[np.ndarray], blurred: np.ndarray) -> list[str]:
    """What is seen outside the objects, and where a vanishing object was last or an appearing one will be first."""
    limit = np.full(blurred.shape, FAINT)
    halo = np.where(_spread(regions.mask, HALO_WIDTH), HALO * regions.contrast[:, None, None], 0.0)
    np.maximum.at(limit, regions.frame, halo)
    np.maximum.at(limit, regions.frame, np.where(_spread(regions.mask, 3), np.inf, 0.0))
    for track in tracks:
        seen = np.nonzero(track >= 0)[0]
        for t in np.nonzero(track < 0)[0]:
            nearest = seen[np.abs(seen - t).argmin()]
            limit[t][_spread(regions.mask[track[nearest]][None], 2)[0]] = np.inf
    amount = (blurred > limit).sum((1, 2))
    return [f"{amount[t]} px of something else in frame {t}" for t in np.nonzero(amount > SPECKS)[0]]


# --- what an object is and does ---------------------------------------------------------------------------------------


def _color_name(color: np.ndarray) -> str | None:
    distance = {name: float(np.linalg.norm(color - np.asarray(rgb))) for name, rgb in COLORS.items()}
    name = min(distance, key=distance.__getitem__)
    return name if distance[name] <= COLOR_REACH else None


def _best_shape(alike: np.ndarray, missing: np.ndarray, faults: list[str], times: np.ndarray) -> str | None:
    """The shape that (nearly) all frames agree on; `alike` and `missing` (T, K) of the frames at `times`."""
    names = np.asarray(_templates(20)[1])
    scores = np.stack([alike[:, names == s].max(1) for s in SHAPES], 1)
    winner = int(scores.mean(0).argmax())
    other = times[scores.argmax(1) != winner]
    if len(other) > len(times) // EXCEPTIONS:
        faults.append(f"a {SHAPES[winner]} that looks like another shape in frames {_list(other)}")
        return None
    poor = times[scores[:, winner] < LIKENESS]
    if len(poor):
        faults.append(f"a {SHAPES[winner]} of a poor outline in frames {_list(poor)}")
    best = np.where(names == SHAPES[winner], alike, -1).argmax(1)
    if missing[np.arange(len(times)), best].mean() > HOLES:
        faults.append(f"a {SHAPES[winner]} with holes")
    return SHAPES[winner]


def _turn_rate(alike: np.ndarray, shape: str, times: np.ndarray) -> float:
    """Degrees a frame, clockwise, with which the templates of a shape fit best to (T, K)."""
    names, angles = np.asarray(_templates(20)[1]), _templates(20)[2]
    table = alike[:, names == shape]
    period, number = _PERIOD[shape], int((names == shape).sum())
    rates = np.arange(-18.0, 18.25, 0.5)
    angle = angles[:number][None, :, None] + rates[:, None, None] * (times - times[0])[None, None, :]
    position = (angle % period) / _STEP
    low = np.floor(position).astype(int)
    part = position - low
    row = np.arange(len(times))
    score = (table[row, low % number] * (1 - part) + table[row, (low + 1) % number] * part).mean(-1).max(-1)
    still = score[len(rates) // 2]
    best = int(score.argmax())
    return float(rates[best]) if score[best] > still + 0.01 else 0.0


def _list(times: np.ndarray) -> str:
    return ", ".join(map(str, times))


def _way(center: np.ndarray, frames: int, faults: list[str]) -> str | None:
    """Direction in which the positions (N, 2) move, None for none; a fault where it is neither a line nor rest."""
    part = min(1.0, (frames - 1) / (REFERENCE_FRAMES - 1))
    path = center - center[0]
    total = path[-1]
    length = float(np.hypot(*total))
    if length < max(0.9, 0.55 * TRAVEL[0] * part):
        if np.hypot(*path.T).max() > max(0.6, 0.2 * TRAVEL[0] * part):
            faults.append("neither rests nor moves on")
        return None
    along, across = path @ total / length, (path[:, 0] * total[1] - path[:, 1] * total[0]) / length
    if np.abs(across).max() > 3 or np.diff(along).min() < -1.5:
        faults.append("does not move in a line")
    return max(MOVES, key=lambda m: float(np.dot(MOVES[m], total)))


def _growth(radius: np.ndarray, faults: list[str]) -> str | None:
    change = radius[-1] / radius[0]
    trend = np.linspace(radius[0], radius[-1], len(radius)) if not 0.8 < change < 1.25 else np.median(radius)
    if np.abs(radius / trend - 1).max() > 0.16:
        faults.append("of unsteady size")
    return "grow" if change >= 1.25 else "shrink" if change <= 0.8 else None


def _describe(regions: _Regions, track: np.ndarray) -> SeenObject:
    frames = len(track)
    faults: list[str] = []
    times = np.nonzero(track >= 0)[0]
    rows = track[times]
    contrast, color = regions.contrast[rows], regions.color[rows]
    changes: list[str] = []

    # Seen throughout, from the beginning to some time, or from some time to the end.
    part = times / max(1, frames - 1)
    gone, came = times[-1] < frames - 1, times[0] > 0
    if gone or came:
        full = contrast >= 0.85 * contrast.max()
        steps = np.diff(contrast) / contrast.max()
        if gone and came:
            faults.append(f"seen only in frames {_list(times)}")
        elif len(times) < times[-1] - times[0] + 1:
            faults.append(f"seen only in frames {_list(times)}")
        elif gone and (not full[0] or (len(steps) and steps.max() > 0.2)):
            faults.append("does not fade steadily")
        elif came and (not full[-1] or (len(steps) and steps.min() < -0.2)):
            faults.append("does not appear steadily")
        # Half transparent, it has a colour between that of the background and its own.
        way = regions.axis[rows] / contrast[:, None]
        if ((way @ way[contrast.argmax()])[contrast >= CLEAR] < SAME_HUE).any():
            faults.append("of unsteady colour")
        changes.append("fade" if gone else "appear")
    else:
        full = np.ones(len(times), bool)
    names = [_color_name(c) for c in color[full]]
    first, last = names[0], names[-1]
    if gone or came or first == last:
        middle = np.median(color[full], axis=0)
        if any(n != first for n in names) or np.linalg.norm(color[full] - middle, axis=-1).max() > COLOR_DRIFT:
            faults.append("of unsteady colour")
            if any(n != first for n in names):
                first = None
    else:
        changes.append("recolor")
        line = color[-1] - color[0]
        along = np.clip((color - color[0]) @ line / (line @ line), 0, 1)
        stray = np.linalg.norm(color - color[0] - along[:, None] * line, axis=-1)
        if stray.max() > COLOR_DRIFT or along[part < 0.2].max() > 0.35 or along[part > 0.8].min() < 0.65:
            faults.append("of unsteady colour")
    missing = np.setdiff1d(np.arange(frames), times)
    if len(missing) and not (gone or came):
        # On the way from one colour to another an object can come close to the colour of the background.
        middle = (missing > 0.25 * (frames - 1)) & (missing < 0.75 * (frames - 1))
        if not (changes == ["recolor"] and middle.all() and len(missing) <= 1 + frames // 5):
            faults.append(f"not seen in frames {_list(missing)}")
    clear = contrast >= CLEAR
    if not clear.any():
        faults.append("too faint")
        clear[:] = True
    good, when = rows[clear], times[clear]
    if regions.motley[good].max() > PATCHES:
        faults.append("of several colours at a time")
    shape = _best_shape(regions.alike[good], regions.missing[good], faults, when)
    center = regions.center[good]
    size = None
    if len(good) > 1:
        way = _way(center, frames, faults)
        growth = _growth(np.sqrt(regions.area[good]), faults)
        changes += [c for c in (way, growth) if c]
        if shape in TURNING:
            rate = _turn_rate(regions.alike[good], shape, when)
            if 0.5 * TURN <= rate <= 1.5 * TURN:
                changes.append("spin")
            elif abs(rate) > 0.3 * TURN:
                faults.append(f"turns by {rate:g} degrees a frame")
    if shape is not None:
        steady = not {"grow", "shrink"} & set(changes)
        area = float(np.median(regions.area[good])) if steady else float(regions.area[good[0]])
        radius = math.sqrt(area / _unit_areas()[shape])
        size = "small" if 6.4 <= radius <= 9.9 else "large" if 10.6 <= radius <= 16.0 else None
    action = "still" if not changes else changes[0] if len(changes) == 1 else None
    if len(changes) > 1:
        faults.append(f"does several things: {', '.join(changes)}")
    target = last if "recolor" in changes else None
    ends = [tuple(float(v) for v in regions.center[rows[k]]) for k in (0, -1)]
    return SeenObject(shape, first, target, size, action, ends[0], ends[1], tuple(faults))


def look(video: np.ndarray) -> Seen:
    """What is to be seen in a video: uint8, or float in 0..1, (T, H, W, 3)."""
    frames = _frames(video)
    background = _fit_background(frames)
    blurred = np.linalg.norm(_soften(frames - background), axis=-1)
    regions = _find_regions(frames, background, blurred)
    tracks = _follow(regions, len(frames))
    faults = _specks(regions, tracks, blurred)
    names = [_background_name(b) for b in background]
    if len(set(names)) > 1:
        faults.append(f"background of unsteady colour: {', '.join(sorted({str(n) for n in names}))}")
    objects = tuple(_describe(regions, track) for track in tracks)
    return Seen(objects, names[0] if len(set(names)) == 1 else None, tuple(faults))
