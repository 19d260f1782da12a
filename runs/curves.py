"""The curves of runs as one picture: `python runs/curves.py RUN [RUN ...] -o curves.png [--values loss psnr ...]`.

RUN is the folder of a training run; its metrics.jsonl is read. Each value has a plot, each run a colour, and an alarm a
grey line at its step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phenaki.media.writer import write_image

WIDTH, HEIGHT, MARGIN = 480, 260, 54  # px of one plot, and the space around its axes
INK, GREY = (40, 40, 40), (170, 170, 170)
COLOURS = ((66, 114, 174), (214, 110, 40), (70, 150, 80), (150, 80, 160))
VALUES = ["loss", "psnr", "perplexity", "grad_norm"]
LOGARITHMIC = {"loss", "perplexity", "grad_norm"}

Curve = tuple[list[int], list[float]]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(lines: list[dict[str, Any]], value: str) -> Curve:
    found = [(line["step"], line[value]) for line in lines if value in line]
    return [step for step, _ in found], [number for _, number in found]


def plot(value: str, curves: dict[str, Curve], alarms: list[int]) -> Image.Image:
    """One value of all runs; the vertical axis is logarithmic where the value's nature is."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw: Any = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    draw.text((MARGIN, 8), value + (" (logarithmic)" if value in LOGARITHMIC else ""), INK, font)
    scale = np.log10 if value in LOGARITHMIC else np.asarray
    heights = {name: scale(np.maximum(numbers, 1e-12)) for name, (_, numbers) in curves.items() if numbers}
    if not heights:
        return image
    low, high = min(map(np.min, heights.values())), max(map(np.max, heights.values()))
    last = max(steps[-1] for steps, _ in curves.values() if steps)
    left, right, top, bottom = MARGIN, WIDTH - 16, 30, HEIGHT - MARGIN

    def at(step: float, height: float) -> tuple[float, float]:
        share = (height - low) / (high - low) if high > low else 0.5
        return left + (right - left) * step / last, bottom - (bottom - top) * share

    for step in alarms:
        draw.line((at(step, low), at(step, high)), GREY)
    legend = right
    for number, (name, (steps, _)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        draw.text((legend, 8), name, colour, font, anchor="ra")
        legend -= font.getlength(name) + 12
        if name in heights:
            draw.line([at(*point) for point in zip(steps, heights[name], strict=True)], colour, width=2)
    draw.line((left, top, left, bottom, right, bottom), GREY)
    for height, anchor in ((low, "rb"), (high, "rt")):
        said = 10**height if value in LOGARITHMIC else height
        draw.text((left - 4, at(0, height)[1]), f"{said:.3g}", INK, font, anchor=anchor)
    draw.text((right, bottom + 6), f"step {last:,}", INK, font, anchor="ra")
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--values", nargs="+", default=VALUES)
    arguments = parser.parse_args()
    lines = {folder.name: records(folder) for folder in arguments.runs}
    alarms = [line["step"] for each in lines.values() for line in each if "alarm" in line]
    rows = -(-len(arguments.values) // 2)
    page = Image.new("RGB", (2 * WIDTH, rows * HEIGHT), "white")
    for number, value in enumerate(arguments.values):
        curves = {name: curve(each, value) for name, each in lines.items()}
        page.paste(plot(value, curves, alarms), (number % 2 * WIDTH, number // 2 * HEIGHT))
    write_image(arguments.out, np.asarray(page))


if __name__ == "__main__":
    main()
