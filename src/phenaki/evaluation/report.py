"""Metrics and their targets as tables for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Row:
    """A metric of a block, by the keys that lead to it. `target`: the least value wanted."""

    label: str
    path: tuple[str, ...]
    format: Callable[[float], str]
    target: float | None = None

    def find(self, block: Mapping[str, Any]) -> dict[str, Any] | None:
        """The metric under "rate", with its interval, claims etc.; None if the block has no such metric."""
        found: Any = block
        for key in self.path:
            found = found.get(key, {})
        return (found if isinstance(found, dict) else {"rate": found}) or None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


_DB, _DIFFERENCE, _PLAIN = "{:.2f} dB".format, "{:+.2f} dB".format, "{:.4f}".format
_COUNT, _DISTANCE, _SPEED = "{:,.0f}".format, "{:.2f}".format, "{:.1f} per second".format

ROWS = {
    "reconstruction": (
        Row("PSNR", ("psnr",), _DB, 30.0),
        Row("first frames", ("psnr_first",), _DB),
        Row("other frames", ("psnr_rest",), _DB),
        Row("first minus others", ("first_minus_rest",), _DIFFERENCE, -1.0),
        Row("SSIM", ("ssim",), _PLAIN),
        Row("gradient energy, of the clips'", ("gradient_energy",), _percent, 0.80),
        Row("blockiness", ("blockiness",), _DISTANCE),
        Row("LPIPS", ("lpips",), _PLAIN),
        Row("rFVD", ("rfvd",), _DISTANCE),
        Row("codebook usage", ("codes_used",), _percent, 0.70),
        Row("codebook perplexity", ("perplexity",), _COUNT),
        Row("bits per pixel", ("bits_per_pixel",), _PLAIN),
        Row("caption still true, one object", ("fulfilled", "one_object"), _percent),
        Row("caption still true, two objects", ("fulfilled", "two_objects"), _percent),
    ),
    "generation": (
        Row("kernel distance to real clips", ("kernel_distance",), _PLAIN),
        Row("that of real clips among themselves", ("real_distance",), _PLAIN),
        Row("FVD", ("fvd",), _DISTANCE),
        Row("nearest real clip has the caption", ("retrieval", "first"), _percent),
        Row("one of the five nearest has it", ("retrieval", "five"), _percent),
        Row("by chance", ("retrieval", "chance"), _percent),
        Row("motion relative to real clips", ("motion",), _percent),
        Row("gradient energy relative to real clips", ("gradient_energy",), _percent),
        Row("blocks relative to real clips", ("blockiness",), _percent),
    ),
    "prompts": (
        Row("one object", ("one_object",), _percent, 0.95),
        Row("held-out pairs", ("held_out_pairs",), _percent, 0.85),
        Row("two objects", ("two_objects",), _percent, 0.75),
        Row("new frames, single clips", ("frames_per_second", "single"), _SPEED, 8.0),
        Row("new frames, batched", ("frames_per_second", "batched"), _SPEED),
    ),
    "stories": (
        Row("scenes fulfilled", ("scenes",), _percent, 0.90),
        Row("object and background persist", ("persistent",), _percent, 0.85),
        Row("both, in all scenes", ("fulfilled",), _percent),
    ),
    "live": (
        Row("a new prompt fulfilled within 2 s", ("new_prompts",), _percent, 0.90),
        Row("keys obeyed within 2 latent frames", ("keys",), _percent, 0.95),
        Row("scenes of ten fulfilled", ("scenes",), _percent),
        Row("scenes 2 to 4 less scenes 8 to 10", ("drift",), _percent),
    ),
    "actions": (
        Row("actions found in real clips", ("real", "following"), _percent),
        Row("after the tokenizer", ("reconstructed", "following"), _percent),
        *(
            Row(f"{what} after {seconds} s of play", ("generated", seconds, key), _percent)
            for seconds in ("1", "5", "30")
            for what, key in (("followed, relative to real clips,", "relative"), ("pass as real", "pictures"))
        ),
        Row("there and back: its own start among 20", ("there_and_back",), _percent),
    ),
}
_MAX_SKIPPED = 10
_TITLES = {
    "reconstruction": "Reconstruction of {clips} clips of {data}",
    "generation": "Generation from the captions of {clips} clips of {data}; features: {features}",
    "prompts": "Prompts fulfilled, {prompts_of_each_kind} unseen prompts of each kind",
    "stories": "{stories} stories of {scenes} scenes",
    "actions": "Actions followed, {videos} videos that continue clips of {data}",
    "live": "Steered while it runs, {videos_of_each_kind} videos of each kind",
}


def report(metrics: Mapping[str, Any]) -> Group:
    """The blocks of `evaluate` as tables: each metric with its 95 % interval and target.

    Below each table: the kinds of claims that were not always fulfilled, the worst first.
    """
    return Group(*itertools.chain.from_iterable(_section(name, block) for name, block in metrics.items()))


def _section(name: str, block: Mapping[str, Any]) -> Iterator[RenderableType]:
    protocol = {"data": "the procedural world, unseen"} | block["protocol"]
    yield Text(_TITLES[name].format(**protocol) + (" (quick: a tenth)" if protocol["quick"] else ""), "bold")
    table = Table("", "measured", "95 % interval", "target", box=None)
    notes = []
    for row in ROWS[name]:
        metric = row.find(block)
        if metric is None:  # other data, missing weights, or a few clips that all have one object
            continue
        interval = " to ".join(map(row.format, metric.get("interval", ())))
        target = _target(row, metric["rate"]) if "world" in protocol else ""
        table.add_row(row.label, row.format(metric["rate"]), interval, target)
        failing = sorted((each["rate"], kind) for kind, each in metric.get("claims", {}).items() if each["rate"] < 1)
        if failing:
            notes.append(f"{row.label}, claims: " + ", ".join(f"{kind} {_percent(value)}" for value, kind in failing))
    notes.append(
        "{frames} frames of {size[1]}x{size[0]} at {fps:g} fps; {device}, threads: {threads}; {seconds:,.0f} s".format(
            **protocol
        )
    )
    notes += [f"skipped: {reason}" for reason in block.get("skipped", ())[:_MAX_SKIPPED]]
    yield table
    yield from (Padding(Text(note, "dim"), (0, 0, 0, 1)) for note in notes)
    yield Text()


def _target(row: Row, value: float) -> str:
    if row.target is None:
        return ""
    return f"{row.format(row.target)}, {'met' if value >= row.target else 'NOT met'}"
