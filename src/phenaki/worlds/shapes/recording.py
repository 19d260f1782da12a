"""Long recordings of the world of shapes: captions switch within them, and arrow keys steer an object.

A recording is a sequence of scenes. One may be cut short by the next caption, or be followed by frames at rest. Under
a caption such as "now the red circle obeys the arrow keys" that object moves while a key is held; at any other time
keys have no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from phenaki.worlds.shapes.captions import caption
from phenaki.worlds.shapes.render import render
from phenaki.worlds.shapes.scene import GAP, MARGIN, MOVES, REFERENCE_FRAMES, Scene, next_scene, size_name

KEYS = ("left", "right", "up", "down")
SPEED = 2.0  # per frame, while a key is held
CONTROLLED = "steered"  # the action of an object that obeys the keys
_CUTTABLE = ("still", *MOVES, "grow", "shrink", "spin")  # actions that may stop half-way


@dataclass(frozen=True)
class Recording:
    """video: uint8 (T, H, W, 3). timed_captions: each after the frame at which it begins. actions: float32 (T, 4), 1
    where a key of KEYS is held between frame i - 1 and i; row 0 is zero."""

    video: np.ndarray
    timed_captions: tuple[tuple[int, str], ...]
    actions: np.ndarray
    continued: bool = False

    @property
    def caption(self) -> str:
        """The first one."""
        return self.timed_captions[0][1]


def record(
    first: Scene, frames: int, rng: np.random.Generator, control: float, steady_pairs: bool = False
) -> Recording:
    """A recording of `frames` frames, an odd number, that begins with a scene of 11 frames.

    `control`: probability of a scene in which keys steer an object. `steady_pairs`: as of `next_scene`.
    """
    scene, clips, captions, actions = first, [], [], [np.zeros((1, len(KEYS)), np.float32)]
    length = 0
    while length < frames:
        is_first = length == 0
        if (is_first or not _hidden(scene)) and rng.random() < control:
            scene, keys, clip = _steer(_still(scene) if is_first else _end(scene), int(rng.integers(5, 21)) * 2, rng)
        else:
            scene = scene if is_first else next_scene(scene, rng, steady_pairs=steady_pairs)
            scene, clip = _play(scene, rng)
            keys = _keys(len(clip) - 1, rng) if rng.random() < control / 2 else np.zeros((len(clip) - 1, 4), np.float32)
        captions.append((length, caption(scene, rng, continuing=not is_first, full=is_first)))
        clips.append(clip[0 if is_first else 1 :])
        actions.append(keys)
        length += len(clips[-1])
    video, rows = np.concatenate(clips)[:frames], np.concatenate(actions)[:frames]
    return Recording(video, tuple(captions), rows)


def _still(scene: Scene) -> Scene:
    """The scene as it begins, with nothing happening."""
    rest = {"action": "still", "target_color": None, "dx": 0.0, "dy": 0.0, "growth": 1.0, "turn": 0.0}
    return replace(scene, objects=tuple(replace(o, **rest) for o in scene.objects))


def _end(scene: Scene) -> Scene:
    """The scene as it ends, with nothing happening."""
    sizes = [size_name(o.radius * o.growth, scene.scale) for o in scene.objects]
    return replace(scene, objects=tuple(replace(o.end(), size=s) for o, s in zip(scene.objects, sizes, strict=True)))


def _hidden(scene: Scene) -> bool:
    return any(obj.action == "fade" for obj in scene.objects)


def _play(scene: Scene, rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
    """The scene as far as it was played, and its frames; now and then cut short, or with frames at rest after it."""
    if rng.random() < 0.2 and all(obj.action in _CUTTABLE for obj in scene.objects):
        kept = int(rng.integers(2, REFERENCE_FRAMES // 2)) * 2
        part = kept / (scene.frames - 1)
        objects = tuple(
            replace(o, dx=o.dx * part, dy=o.dy * part, growth=1 + (o.growth - 1) * part, turn=o.turn * part)
            for o in scene.objects
        )
        clip = render(replace(scene, objects=objects, frames=1 + kept))
        return replace(scene, objects=objects), clip
    clip = render(scene)
    rest = int(rng.integers(1, 9)) * 2 if rng.random() < 0.4 else 0
    return scene, np.concatenate([clip, np.repeat(clip[-1:], rest, axis=0)])


def _keys(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Keys as a player holds them: for a few frames none, one, or two that move diagonally."""
    rows = np.zeros((frames, len(KEYS)), np.float32)
    at = int(rng.integers(0, 5))
    while at < frames:
        held, draw = int(rng.integers(2, 13)), rng.random()
        across, along = int(rng.integers(0, 2)), int(rng.integers(2, 4))
        if draw < 0.8:
            rows[at : at + held, across if draw < 0.4 else along] = 1
        if 0.65 <= draw < 0.8:
            rows[at : at + held, across] = 1
        at += held + (int(rng.integers(1, 7)) if draw < 0.4 else 0)
    return rows


def steer(scene: Scene, number: int, keys: np.ndarray) -> Iterator[Scene]:
    """After each row of `keys`, the scene at rest with object `number` moved, up to the border or another object."""
    for left, right, up, down in keys:
        step = SPEED * scene.scale
        for dx, dy in ((right - left) * step, 0.0), (0.0, (down - up) * step):
            scene = _moved(scene, number, float(dx), float(dy))
        yield scene


def _moved(scene: Scene, number: int, dx: float, dy: float) -> Scene:
    obj = scene.objects[number]
    edge = MARGIN * scene.scale + obj.reach
    x = min(max(obj.x + dx, min(edge, obj.x)), max(scene.width - edge, obj.x))
    y = min(max(obj.y + dy, min(edge, obj.y)), max(scene.height - edge, obj.y))
    for other in scene.objects[:number] + scene.objects[number + 1 :]:
        clear = obj.reach + other.reach + GAP * scene.scale
        near, now = np.hypot(x - other.x, y - other.y), np.hypot(obj.x - other.x, obj.y - other.y)
        if near < clear and near < now:
            return scene
    objects = list(scene.objects)
    objects[number] = replace(obj, x=x, y=y)
    return replace(scene, objects=tuple(objects))


def _steer(scene: Scene, frames: int, rng: np.random.Generator) -> tuple[Scene, np.ndarray, np.ndarray]:
    """The scene at rest after one object was steered for `frames` frames, the keys, and 1 + `frames` frames."""
    number, keys = int(rng.integers(len(scene.objects))), _keys(frames, rng)
    row = [scene, *steer(scene, number, keys)]
    clip = np.concatenate([render(replace(one, frames=1)) for one in row])
    objects = list(row[-1].objects)
    objects[number] = replace(objects[number], action=CONTROLLED)
    return replace(row[-1], objects=tuple(objects)), keys, clip
