"""One HTML page about the runs in a folder."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Sequence
from pathlib import Path

from phenaki.core.files import write_atomic
from phenaki.training.runs import Curve, Summary


def format_value(value: float) -> str:
    return f"{value:.4g}"


def ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def write_page(runs: Sequence[Summary], path: Path) -> None:
    """Write one self-contained HTML file about the runs, pictures and videos included."""
    rows = "".join(_row(run, number) for number, run in enumerate(runs))
    sections = "".join(_section(run, number) for number, run in enumerate(runs))
    head = "".join(f"<th>{name}</th>" for name in ("run", "stage", "state", "step", "best", "last sign of life"))
    with write_atomic(path, "w") as file:
        file.write(_PAGE.format(head=head, rows=rows, sections=sections))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>phenaki runs</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: top }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0 }} figcaption {{ font-size: 13px; color: #555 }}
img, video {{ max-width: 100%; image-rendering: pixelated }} svg {{ background: #f6f6f6; font-family: inherit }}
.running {{ color: #06c }} .finished {{ color: #080 }} .failed {{ color: #c00 }} .stopped {{ color: #960 }}
</style></head><body><h1>Runs</h1>
<table><tr>{head}</tr>{rows}</table>{sections}</body></html>
"""


def _row(run: Summary, number: int) -> str:
    cells = (
        f'<a href="#run{number}">{html.escape(str(run.folder))}</a>',
        run.stage,
        f'<span class="{run.state}">{run.state}</span>',
        f"{run.step:,} of {run.steps:,}",
        "<br>".join(f"{name} {format_value(value)} at {step:,}" for name, (value, step) in run.best.items()),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.time)) if run.time else "",
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def _section(run: Summary, number: int) -> str:
    notes = [sentence for sentence in (run.sentence, *run.alarms) if sentence]
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    curves = "".join(_chart(name, curve) for name, curve in sorted(run.curves.items()))
    media = "".join(map(_media, run.pictures))
    title = f'{html.escape(str(run.folder))} <span class="{run.state}">{run.state}</span>'
    return f'<h2 id="run{number}">{title}</h2>{said}<div>{media}</div><div>{curves}</div>\n'


def _media(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    if file.suffix == ".mp4":
        element = f'<video src="data:video/mp4;base64,{data}" autoplay loop muted controls></video>'
    else:
        element = f'<img src="data:image/png;base64,{data}" alt="{html.escape(file.stem)}">'
    return f"<figure>{element}<figcaption>{html.escape(file.name)}</figcaption></figure>"


_WIDTH, _HEIGHT, _POINTS = 260, 110, 200
_LEFT, _BELOW = 48, 28  # pixels for the labels of the axes
_UNITS = {"psnr": "dB", "psnr_first": "dB", "psnr_rest": "dB", "waiting_for_data": "fraction", "memory_gb": "GB"}


def _chart(name: str, curve: Curve) -> str:
    """A curve as SVG, averaged to at most `_POINTS` points."""
    points = _thinned(curve)
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    across, up = (max(steps) - min(steps)) or 1, (high - low) or 1
    line = " ".join(
        f"{(step - min(steps)) / across * _WIDTH:.1f},{(1 - (value - low) / up) * (_HEIGHT - 8) + 4:.1f}"
        for step, value in points
    )
    polyline = f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>'
    last = f"now {format_value(curve[-1][1])}, from {format_value(low)} to {format_value(high)}"
    unit = _UNITS.get(name.rpartition("/")[2], "")
    return (
        f'<figure><svg width="{_LEFT + _WIDTH + 8}" height="{_HEIGHT + _BELOW}" role="img">'
        f"{_axes(low, high, unit, min(steps), max(steps))}"
        f'<g transform="translate({_LEFT},0)">{polyline}</g></svg>'
        f"<figcaption>{html.escape(name)}{f' ({unit})' if unit else ''}: {last}</figcaption></figure>"
    )


def _axes(low: float, high: float, unit: str, first: int, last: int) -> str:
    """Two axes with their ends, and the middle of the upright one; the other one counts steps."""
    middle, gap = [] if low == high else [(1, (low + high) / 2), (0, high)], (_HEIGHT - 8) / 2
    marks = "".join(
        f'<line x1="{_LEFT - 3}" x2="{_LEFT}" y1="{4 + gap * i:.1f}" y2="{4 + gap * i:.1f}" stroke="#999"/>'
        f'<text x="{_LEFT - 5}" y="{8 + gap * i:.1f}" text-anchor="end">{value:.3g}</text>'
        for i, value in [(2, low), *middle]
    )
    ends = [(_LEFT, "start", f"{first:,}")] + ([(_LEFT + _WIDTH, "end", f"{last:,}")] if last > first else [])
    marks += "".join(f'<text x="{x}" y="{_HEIGHT + 12}" text-anchor="{at}">{text}</text>' for x, at, text in ends)
    frame = f'<path d="M{_LEFT},0 V{_HEIGHT} H{_LEFT + _WIDTH}" fill="none" stroke="#999"/>'
    label = f'<text x="{_LEFT + _WIDTH / 2:.0f}" y="{_HEIGHT + 24}" text-anchor="middle">step</text>'
    upright = f'<text x="2" y="{_HEIGHT + 12}">{html.escape(unit)}</text>' if unit else ""
    return f'<g font-size="10" fill="#555">{frame}{marks}{label}{upright}</g>'


def _thinned(curve: Curve) -> Curve:
    width = -(-len(curve) // _POINTS)
    groups = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
