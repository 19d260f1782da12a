"""Curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phenaki.media.writer import write_image

WIDTH, HEIGHT, MARGIN = 480, 300, 54  # px of a plot, and the space around its axes
INK, GREY = (40, 40, 40), (200, 200, 200)
COLOURS = ((66, 114, 174), (214, 110, 40), (70, 150, 80), (150, 80, 160))

Points = Sequence[tuple[float, float]]


def plot(
    title: str, curves: dict[str, Points], x_name: str, logarithmic: Literal["", "x", "y", "xy"] = ""
) -> Image.Image:
    """A curve for each name, through its points (x, y); `logarithmic`: which axes are."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw: Any = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    every = [point for points in curves.values() for point in points]
    left, right, top, bottom = MARGIN, WIDTH - 20, 30, HEIGHT - MARGIN
    place_x = _axis([x for x, _ in every], left, right, "x" in logarithmic)
    place_y = _axis([y for _, y in every], bottom, top, "y" in logarithmic)
    for x in {min(x for x, _ in every), max(x for x, _ in every)}:
        draw.text((place_x(x), bottom + 6), _label(x), INK, font, anchor="ma")
    for y in {min(y for _, y in every), max(y for _, y in every)}:
        draw.line((left, place_y(y), right, place_y(y)), GREY)
        draw.text((left - 4, place_y(y)), _label(y), INK, font, anchor="rm")
    draw.text(((left + right) / 2, bottom + 22), x_name, INK, font, anchor="ma")
    draw.text((left, 8), title + (" (logarithmic)" if logarithmic else ""), INK, font)
    legend = right
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        draw.text((legend, 8), name, colour, font, anchor="ra")
        legend -= font.getlength(name) + 12
        places = [(place_x(x), place_y(y)) for x, y in points]
        draw.line(places, colour, width=2)
        for x, y in places:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
    draw.line((left, top, left, bottom, right, bottom), INK)
    return image


def save_curves(path: Path, title: str, curves: dict[str, list[dict[str, float]]], key: str) -> None:
    """Curves of `key` over "minutes" as a picture."""
    points = {name: [(point["minutes"], point[key]) for point in curve] for name, curve in curves.items()}
    write_image(path, np.asarray(plot(title, points, "minutes")))


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _axis(values: list[float], start: int, end: int, logarithmic: bool) -> Any:
    """From a value to its place between two ends, px."""
    scale = math.log if logarithmic else float
    low, high = scale(min(values)), scale(max(values))
    return lambda value: start + (end - start) * ((scale(value) - low) / (high - low) if high > low else 0.5)
