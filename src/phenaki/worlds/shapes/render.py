"""Rendering by signed distances, in one small patch around each object and frame."""

from __future__ import annotations

import math

import numpy as np

from phenaki.worlds.shapes.scene import BACKGROUNDS, COLORS, GRADIENT, REACH, Scene, SceneObject

STAR_INNER = 0.54  # inner / outer radius of the star: plump, to be recognizable when small
RING_INNER = 0.46  # inner / outer radius of the ring
CROSS_ARM = 0.38  # half width of the cross's arms / radius


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance in px to the outline of an upright shape around the origin, negative inside. Arguments broadcast.

    Exact near edges; outside a corner it is the distance to the nearer edge's line, which keeps corners sharp.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "ring":
        outer = REACH["ring"] * radius
        middle, half = outer * (1 + RING_INNER) / 2, outer * (1 - RING_INNER) / 2
        return np.abs(np.sqrt(x * x + y * y) - middle) - half
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.8 * radius
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        long, short = np.maximum(ax, ay), np.minimum(ax, ay)
        return np.maximum(long - 1.02 * radius, short - CROSS_ARM * radius)
    if shape == "triangle":
        slope = math.sqrt(0.75) * np.abs(x) - 0.5 * y
        return np.maximum(slope, y) - REACH["triangle"] / 2 * radius
    if shape == "star":
        # Folded into the half sector between a tip and the notch 36 degrees beside it, the outline is one line.
        outer = REACH["star"] * radius
        angle = np.arctan2(np.abs(x), -y)
        angle = np.abs(angle - math.radians(72) * np.round(angle / math.radians(72)))
        length = np.sqrt(x * x + y * y)
        along, across = length * np.cos(angle), length * np.sin(angle)
        notch_x, notch_y = STAR_INNER * math.cos(math.radians(36)) - 1, STAR_INNER * math.sin(math.radians(36))
        return ((along - outer) * notch_y - across * notch_x) / math.hypot(notch_x, notch_y)
    raise KeyError(shape)


def background_image(name: str, height: int, width: int, horizontal: bool = False) -> np.ndarray:
    """Background as float32 (H, W, 3) in 0..255."""
    flat = BACKGROUNDS[name]
    if flat is not None:
        return np.broadcast_to(np.asarray(flat, np.float32), (height, width, 3))
    first, last = np.asarray(GRADIENT, np.float32)
    ramp = np.linspace(0, 1, width if horizontal else height, dtype=np.float32)
    ramp = ramp[None, :, None] if horizontal else ramp[:, None, None]
    return np.broadcast_to(first + (last - first) * ramp, (height, width, 3))


def _ramp(u: np.ndarray, start: float, stop: float) -> np.ndarray:
    return np.clip((u - start) / (stop - start), 0.0, 1.0)


def _draw(canvas: np.ndarray, ground: np.ndarray, obj: SceneObject) -> None:
    frames, height, width, _ = canvas.shape
    u = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    x, y = obj.x + obj.dx * u, obj.y + obj.dy * u
    radius = obj.radius * (1 + (obj.growth - 1) * u)
    color = np.broadcast_to(np.asarray(COLORS[obj.color], np.float32), (frames, 3))
    if obj.target_color is not None:
        color = color + _ramp(u, 0.25, 0.75)[:, None] * (np.asarray(COLORS[obj.target_color]) - color)
        color = color.astype(np.float32)
    alpha = np.ones_like(u)
    if obj.action == "fade":
        alpha = 1 - _ramp(u, 0.2, 0.8)
    elif obj.action == "appear":
        alpha = _ramp(u, 0.2, 0.8)

    # Only a square patch around the object is computed; patches of all frames have one size, so they stack.
    side = min(2 * math.ceil(obj.reach * max(1.0, obj.growth)) + 3, height, width)
    left = np.clip(np.round(x - side / 2).astype(np.int64), 0, width - side)
    top = np.clip(np.round(y - side / 2).astype(np.int64), 0, height - side)
    span = np.arange(side) + 0.5
    px = (left[:, None] + span - x[:, None]).astype(np.float32)[:, None, :]
    py = (top[:, None] + span - y[:, None]).astype(np.float32)[:, :, None]
    if obj.angle or obj.turn:
        turned = np.deg2rad(obj.angle + obj.turn * u).astype(np.float32)[:, None, None]
        cos, sin = np.cos(turned), np.sin(turned)
        px, py = px * cos + py * sin, py * cos - px * sin
    elif not (obj.dx or obj.dy or obj.growth != 1.0):
        px, py, radius = px[:1], py[:1], radius[:1]
    cover = np.clip(0.5 - signed_distance(obj.shape, px, py, radius.astype(np.float32)[:, None, None]), 0.0, 1.0)
    cover = (cover * alpha[:, None, None].astype(np.float32))[..., None]
    for t in range(frames):
        rows, cols = slice(top[t], top[t] + side), slice(left[t], left[t] + side)
        canvas[t, rows, cols] += cover[t] * (color[t] - ground[rows, cols])


def render(scene: Scene) -> np.ndarray:
    """Draw a scene as uint8 (T, H, W, 3), anti-aliased. Objects of a scene never overlap, so their order is free."""
    ground = background_image(scene.background, scene.height, scene.width, scene.horizontal)
    canvas = np.empty((scene.frames, scene.height, scene.width, 3), np.float32)
    canvas[:] = ground + 0.5  # rounds when cut to integers
    for obj in scene.objects:
        _draw(canvas, ground, obj)
    return canvas.astype(np.uint8)
