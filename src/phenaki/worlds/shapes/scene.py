"""Scenes of the world of shapes, and their random generation.

Lengths are in pixels of the scene's own frame. The constants here are in units of a frame whose smaller side is 64 px;
`Scene.scale` is the factor between them. x grows to the right, y downwards, angles in degrees grow clockwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from phenaki.core.errors import PhenakiError

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 190, 70),
    "blue": (50, 90, 240),
    "yellow": (245, 225, 50),
    "purple": (165, 70, 215),
    "orange": (245, 140, 30),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
SIZES: dict[str, float] = {"small": 9.0, "large": 14.0}
GRADIENT = ((14, 66, 74), (84, 30, 84))
BACKGROUNDS: dict[str, tuple[int, int, int] | None] = {
    "black": (10, 10, 12),
    "gray": (110, 110, 110),
    "navy": (20, 28, 84),
    "brown": (96, 62, 38),
    "gradient": None,  # from GRADIENT[0] at the top or left to GRADIENT[1]
}
_D = math.sqrt(0.5)
MOVES: dict[str, tuple[float, float]] = {
    "right": (1.0, 0.0),
    "down-right": (_D, _D),
    "down": (0.0, 1.0),
    "down-left": (-_D, _D),
    "left": (-1.0, 0.0),
    "up-left": (-_D, -_D),
    "up": (0.0, -1.0),
    "up-right": (_D, -_D),
}
ACTIONS = ("still", *MOVES, "grow", "shrink", "spin", "recolor", "fade", "appear")
TURNING = ("square", "triangle", "star", "cross")  # shapes whose rotation is visible
HELD_OUT_PAIRS = frozenset(
    {
        ("circle", "purple"),
        ("square", "cyan"),
        ("triangle", "orange"),
        ("star", "green"),
        ("cross", "yellow"),
        ("ring", "white"),
    }
)
SPLITS = ("train", "test", "held_out")

# Circumradius / radius; the radius is that of a circle of about the same area.
REACH = {"circle": 1.0, "square": 1.14, "triangle": 1.25, "star": 1.25, "cross": 1.09, "ring": 1.05}
MARGIN = 1.0  # to the frame's border
GAP = 2.0  # between two objects
TRAVEL = (16.0, 22.0)  # in a clip of at least REFERENCE_FRAMES frames; proportionally less in a shorter one
REFERENCE_FRAMES = 11
GROWTH = {"grow": 1.45, "shrink": 0.68}
TURN = 11.0  # degrees a frame
SIZE_TOLERANCE = 0.12  # relative deviation of the radius within which a size keeps its name
GROW_BELOW, SHRINK_ABOVE = 15.0, 8.5  # radii beyond which a continued scene does not grow or shrink an object further


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is and does, its geometry at the start of the clip and the change over the clip."""

    shape: str
    color: str
    action: str
    x: float
    y: float
    radius: float
    size: str | None = None  # None where the radius has no name
    target_color: str | None = None  # of the action "recolor"
    angle: float = 0.0
    dx: float = 0.0
    dy: float = 0.0
    growth: float = 1.0  # radius at the end / radius at the start
    turn: float = 0.0  # degrees over the clip

    @property
    def reach(self) -> float:
        """Circumradius at the start."""
        return REACH[self.shape] * self.radius

    def end(self) -> SceneObject:
        """The object at rest in its state at the end of the clip (invisible after a "fade")."""
        return replace(
            self,
            action="still",
            color=self.target_color or self.color,
            target_color=None,
            x=self.x + self.dx,
            y=self.y + self.dy,
            radius=self.radius * self.growth,
            angle=self.angle + self.turn,
            dx=0.0,
            dy=0.0,
            growth=1.0,
            turn=0.0,
        )


@dataclass(frozen=True)
class Scene:
    """One or two objects on a background, for a number of frames of height x width px."""

    objects: tuple[SceneObject, ...]
    background: str
    frames: int
    height: int
    width: int
    horizontal: bool = False  # the gradient runs from left to right instead of top to bottom

    @property
    def scale(self) -> float:
        return min(self.height, self.width) / 64


def size_name(radius: float, scale: float) -> str | None:
    """The name of a radius in px, or None if it is not near a nominal size."""
    for name, nominal in SIZES.items():
        if abs(radius / (nominal * scale) - 1) <= SIZE_TOLERANCE:
            return name
    return None


def has_held_out_pair(scene: Scene) -> bool:
    """Whether any object starts as, or turns into, a colour-shape pair that training never shows."""
    return any((o.shape, color) in HELD_OUT_PAIRS for o in scene.objects for color in (o.color, o.target_color))


def _pick(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _trained_colors(shape: str, taken: set[str]) -> list[str]:
    return [c for c in COLORS if c not in taken and (shape, c) not in HELD_OUT_PAIRS]


def _act(
    obj: SceneObject, action: str, rng: np.random.Generator, frames: int, scale: float, taken: set[str]
) -> SceneObject:
    """`obj` with the change of `action` over the clip. `taken`: the colours of the other objects."""
    if action in MOVES:
        ux, uy = MOVES[action]
        way = rng.uniform(*TRAVEL) * scale * min(1.0, (frames - 1) / (REFERENCE_FRAMES - 1))
        return replace(obj, action=action, dx=ux * way, dy=uy * way)
    if action in GROWTH:
        return replace(obj, action=action, growth=GROWTH[action])
    if action == "spin":
        return replace(obj, action=action, turn=TURN * (frames - 1))
    if action == "recolor":
        target = _pick(rng, _trained_colors(obj.shape, taken | {obj.color}))
        return replace(obj, action=action, target_color=target)
    return replace(obj, action=action)


def _colors(objects: list[SceneObject]) -> set[str]:
    return {c for o in objects for c in (o.color, o.target_color) if c is not None}


def _box(obj: SceneObject, height: int, width: int, margin: float) -> tuple[float, float, float, float]:
    """Range (x0, x1, y0, y1) of start positions from which the object stays inside the frame to the end."""
    first, last = margin + obj.reach, margin + obj.reach * obj.growth
    return (
        max(first, last - obj.dx),
        min(width - first, width - last - obj.dx),
        max(first, last - obj.dy),
        min(height - first, height - last - obj.dy),
    )


def _gaps(a: SceneObject, b: SceneObject, start: np.ndarray, frames: int) -> np.ndarray:
    """Smallest distance over the clip between the circumcircles, for offsets (N, 2) from a's start to b's."""
    u = np.linspace(0.0, 1.0, max(frames, 2))
    x = start[:, :1] + (b.dx - a.dx) * u
    y = start[:, 1:] + (b.dy - a.dy) * u
    reach = a.reach * (1 + (a.growth - 1) * u) + b.reach * (1 + (b.growth - 1) * u)
    return (np.hypot(x, y) - reach).min(axis=1)


def _position(
    objects: list[SceneObject], rng: np.random.Generator, frames: int, height: int, width: int
) -> list[SceneObject] | None:
    """The objects at random positions where they neither leave the frame nor touch, or None if none was found."""
    scale = min(height, width) / 64
    starts = []
    for obj in objects:
        x0, x1, y0, y1 = _box(obj, height, width, MARGIN * scale)
        if x0 > x1 or y0 > y1:
            return None
        starts.append(rng.uniform((x0, y0), (x1, y1), (64, 2)))
    pick = 0
    if len(objects) == 2:
        clear = _gaps(*objects, starts[1] - starts[0], frames) >= GAP * scale
        if not clear.any():
            return None
        pick = int(clear.argmax())
    return [replace(o, x=float(s[pick, 0]), y=float(s[pick, 1])) for o, s in zip(objects, starts, strict=True)]


def sample_scene(
    rng: np.random.Generator,
    *,
    split: str = "train",
    frames: int = REFERENCE_FRAMES,
    height: int = 64,
    width: int = 64,
    objects: int | None = None,
    steady_pairs: bool = False,
) -> Scene:
    """Draw a random scene.

    `split`: "held_out" scenes have an object of a held-out colour-shape pair, others have none, nor turn into one.
    `objects`: 1, 2, or None for one object in 60 % and two in 40 % of the scenes.
    `steady_pairs`: objects of a held-out pair do not change colour, so that what continues the scene is held out too.
    """
    scale = min(height, width) / 64
    count = objects or (1 if rng.random() < 0.6 else 2)
    special = int(rng.integers(count)) if split == "held_out" else -1
    cast: list[SceneObject] = []
    order = sorted(range(count), key=lambda k: k != special)  # the held-out pair is drawn first, free of other colours
    for k in order:
        shape = _pick(rng, SHAPES)
        taken = _colors(cast)
        pairs = [c for c in COLORS if (shape, c) in HELD_OUT_PAIRS]
        color = pairs[0] if k == special else _pick(rng, _trained_colors(shape, taken))
        size = _pick(rng, tuple(SIZES))
        cast.append(SceneObject(shape, color, "still", 0.0, 0.0, SIZES[size] * scale, size))
    cast = [cast[order.index(k)] for k in range(count)]
    background = _pick(rng, tuple(BACKGROUNDS))
    horizontal = background == "gradient" and bool(rng.random() < 0.5)

    def acted() -> list[SceneObject]:
        if frames == 1:
            return cast
        done = list(cast)
        for k, obj in enumerate(cast):
            possible = [a for a in ACTIONS if a != "spin" or obj.shape in TURNING]
            if steady_pairs and (obj.shape, obj.color) in HELD_OUT_PAIRS:
                possible.remove("recolor")
            others = _colors(done[:k] + done[k + 1 :])
            done[k] = _act(obj, _pick(rng, possible), rng, frames, scale, others)
        return done

    placed = None
    for attempt in range(64):
        if attempt == 32:  # two large objects in a small frame: make them smaller
            cast = [replace(o, radius=SIZES["small"] * scale, size="small") for o in cast]
        placed = _position(acted(), rng, frames, height, width)
        if placed is not None:
            break
    while placed is None:  # small objects at rest fit in nearly every draw
        placed = _position(cast, rng, frames, height, width)
    return Scene(tuple(placed), background, frames, height, width, horizontal)


def next_scene(scene: Scene, rng: np.random.Generator, *, steady_pairs: bool = False) -> Scene:
    """A scene that continues `scene`: its first frame is the last frame of `scene`.

    Faded objects appear again; nothing grows, shrinks or moves beyond its limits; no colour-shape pair turns into a
    held-out one. `steady_pairs`: see `sample_scene`.
    """
    if scene.frames == 1:
        raise PhenakiError("a scene of 1 frame is an image and cannot be continued: sample it with frames=2 or more")
    scale, frames = scene.scale, scene.frames
    cast = [replace(o.end(), size=size_name(o.radius * o.growth, scale)) for o in scene.objects]
    hidden = [o.action == "fade" for o in scene.objects]

    def fits(obj: SceneObject) -> bool:
        x0, x1, y0, y1 = _box(obj, scene.height, scene.width, MARGIN * scale - 1e-6)
        return x0 <= obj.x <= x1 and y0 <= obj.y <= y1

    def possible(obj: SceneObject) -> list[str]:
        names = ["still", "recolor", "fade"]
        if steady_pairs and (obj.shape, obj.color) in HELD_OUT_PAIRS:
            names.remove("recolor")
        if obj.shape in TURNING:
            names.append("spin")
        if obj.radius < GROW_BELOW * scale and fits(replace(obj, growth=GROWTH["grow"])):
            names.append("grow")
        if obj.radius > SHRINK_ABOVE * scale:
            names.append("shrink")
        way = TRAVEL[1] * scale * min(1.0, (frames - 1) / (REFERENCE_FRAMES - 1))
        return names + [m for m, (ux, uy) in MOVES.items() if fits(replace(obj, dx=ux * way, dy=uy * way))]

    for _ in range(32):
        done = list(cast)
        for k, obj in enumerate(cast):
            others = _colors(done[:k] + done[k + 1 :])
            action = "appear" if hidden[k] else _pick(rng, possible(obj))
            done[k] = _act(obj, action, rng, frames, scale, others)
        if len(done) == 1:
            break
        offset = np.array([[done[1].x - done[0].x, done[1].y - done[0].y]])
        if _gaps(*done, offset, frames)[0] >= GAP * scale - 1e-6:
            break
    else:
        done = [replace(o, action="appear" if gone else "still") for o, gone in zip(cast, hidden, strict=True)]
    return replace(scene, objects=tuple(done))
