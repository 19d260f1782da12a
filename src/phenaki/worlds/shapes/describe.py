"""What a tracked object is and does: shape, colour, size and action."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from phenaki.worlds.shapes.outline import PERIOD, STEP, templates, unit_areas
from phenaki.worlds.shapes.scene import COLORS, MOVES, REFERENCE_FRAMES, SHAPES, TRAVEL, TURN, TURNING
from phenaki.worlds.shapes.segment import Regions

CLEAR = 60.0  # contrast from which outline and position can be trusted
COLOR_REACH = 60.0  # a colour further than this from all eight has no name
COLOR_DRIFT = 50.0  # how far the colour of an object may stray from its own median
SAME_HUE = 0.9  # cosine between the directions in which a half and a fully visible object differ from the background
PATCHES = 0.25  # fraction of the inside that may have another colour in a frame
HOLES = 0.03  # fraction of the inside, on average over the frames, that may be missing
MIN_IOU = 0.72  # with the best template
EXCEPTIONS = 10  # of this many frames, one may look more like another shape than the object's


@dataclass(frozen=True)
class ObservedObject:
    """What an object is and does; None if unknown. `faults`: why it is not one steady object."""

    shape: str | None
    color: str | None  # at the start of the clip
    target_color: str | None  # at its end, where that is another
    size: str | None  # at the start of the clip
    action: str | None
    first: tuple[float, float]  # x, y where it is first and last seen, in px of a 64-px frame
    last: tuple[float, float]
    faults: tuple[str, ...]


def _color_name(color: np.ndarray) -> str | None:
    distance = {name: float(np.linalg.norm(color - np.asarray(rgb))) for name, rgb in COLORS.items()}
    name = min(distance, key=distance.__getitem__)
    return name if distance[name] <= COLOR_REACH else None


def _best_shape(iou: np.ndarray, missing: np.ndarray, faults: list[str], times: np.ndarray) -> str | None:
    """The shape that (nearly) all frames agree on; `iou` and `missing` (T, K) of the frames at `times`."""
    names = np.asarray(templates(20)[1])
    scores = np.stack([iou[:, names == s].max(1) for s in SHAPES], 1)
    winner = int(scores.mean(0).argmax())
    other = times[scores.argmax(1) != winner]
    if len(other) > len(times) // EXCEPTIONS:
        faults.append(f"a {SHAPES[winner]} that looks like another shape in frames {_join(other)}")
        return None
    poor = times[scores[:, winner] < MIN_IOU]
    if len(poor):
        faults.append(f"a {SHAPES[winner]} of a poor outline in frames {_join(poor)}")
    best = np.where(names == SHAPES[winner], iou, -1).argmax(1)
    if missing[np.arange(len(times)), best].mean() > HOLES:
        faults.append(f"a {SHAPES[winner]} with holes")
    return SHAPES[winner]


def _turn_rate(iou: np.ndarray, shape: str, times: np.ndarray) -> float:
    """Degrees a frame, clockwise, with which the templates of a shape fit best to (T, K)."""
    names, angles = np.asarray(templates(20)[1]), templates(20)[2]
    table = iou[:, names == shape]
    period, number = PERIOD[shape], int((names == shape).sum())
    rates = np.arange(-18.0, 18.25, 0.5)
    angle = angles[:number][None, :, None] + rates[:, None, None] * (times - times[0])[None, None, :]
    position = (angle % period) / STEP
    low = np.floor(position).astype(int)
    part = position - low
    row = np.arange(len(times))
    score = (table[row, low % number] * (1 - part) + table[row, (low + 1) % number] * part).mean(-1).max(-1)
    still = score[len(rates) // 2]
    best = int(score.argmax())
    return float(rates[best]) if score[best] > still + 0.01 else 0.0


def _join(times: np.ndarray) -> str:
    return ", ".join(map(str, times))


def _direction(center: np.ndarray, frames: int, faults: list[str]) -> str | None:
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


def describe(regions: Regions, track: np.ndarray) -> ObservedObject:
    frames = len(track)
    faults: list[str] = []
    times = np.nonzero(track >= 0)[0]
    rows = track[times]
    contrast, color = regions.contrast[rows], regions.color[rows]
    changes: list[str] = []

    # Observation throughout, from the beginning to some time, or from some time to the end.
    part = times / max(1, frames - 1)
    gone, came = times[-1] < frames - 1, times[0] > 0
    if gone or came:
        full = contrast >= 0.85 * contrast.max()
        steps = np.diff(contrast) / contrast.max()
        if gone and came:
            faults.append(f"seen only in frames {_join(times)}")
        elif len(times) < times[-1] - times[0] + 1:
            faults.append(f"seen only in frames {_join(times)}")
        elif gone and (not full[0] or (len(steps) and steps.max() > 0.2)):
            faults.append("does not fade steadily")
        elif came and (not full[-1] or (len(steps) and steps.min() < -0.2)):
            faults.append("does not appear steadily")
        # A half-transparent object has a colour between the background's and its own.
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
            faults.append(f"not seen in frames {_join(missing)}")
    clear = contrast >= CLEAR
    if not clear.any():
        faults.append("too faint")
        clear[:] = True
    good, when = rows[clear], times[clear]
    if regions.motley[good].max() > PATCHES:
        faults.append("of several colours at a time")
    shape = _best_shape(regions.iou[good], regions.missing[good], faults, when)
    center = regions.center[good]
    size = None
    if len(good) > 1:
        way = _direction(center, frames, faults)
        growth = _growth(np.sqrt(regions.area[good]), faults)
        changes += [c for c in (way, growth) if c]
        if shape in TURNING:
            rate = _turn_rate(regions.iou[good], shape, when)
            if 0.5 * TURN <= rate <= 1.5 * TURN:
                changes.append("spin")
            elif abs(rate) > 0.3 * TURN:
                faults.append(f"turns by {rate:g} degrees a frame")
    if shape is not None:
        steady = not {"grow", "shrink"} & set(changes)
        area = float(np.median(regions.area[good])) if steady else float(regions.area[good[0]])
        radius = math.sqrt(area / unit_areas()[shape])
        size = "small" if 6.4 <= radius <= 9.9 else "large" if 10.6 <= radius <= 16.0 else None
    action = "still" if not changes else changes[0] if len(changes) == 1 else None
    if len(changes) > 1:
        faults.append(f"does several things: {', '.join(changes)}")
    target = last if "recolor" in changes else None
    ends = [tuple(float(v) for v in regions.center[rows[k]]) for k in (0, -1)]
    return ObservedObject(shape, first, target, size, action, ends[0], ends[1], tuple(faults))
