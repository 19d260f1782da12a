"""Figures for the eye, beside what they should reach, and in a file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic


@dataclass(frozen=True)
class Row:
    """A figure of a block, by the keys that lead to it. `bar`: the least value wanted of it."""

    label: str
    path: tuple[str, ...]
    form: Callable[[float], str]
    bar: float | None = None

    def value(self, block: Mapping[str, Any]) -> dict[str, Any] | None:
        """The figure under "share", with what stands beside it; None where the block has none."""
        found: Any = block
        for key in self.path:
            found = found.get(key, {})
        whole = found if isinstance(found, dict) else {"share": found}
        return whole or None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


_DB, _DIFFERENCE, _PLAIN = "{:.2f} dB".format, "{:+.2f} dB".format, "{:.4f}".format
_COUNT, _DISTANCE, _RATE = "{:,.0f}".format, "{:.2f}".format, "{:.1f} a second".format

ROWS = {
    "reconstruction": (
        Row("PSNR", ("psnr",), _DB, 30.0),
        Row("of first frames", ("psnr_first",), _DB),
        Row("of the others", ("psnr_rest",), _DB),
        Row("first minus others", ("first_minus_rest",), _DIFFERENCE, -1.0),
        Row("SSIM", ("ssim",), _PLAIN),
        Row("LPIPS", ("lpips",), _PLAIN),
        Row("rFVD", ("rfvd",), _DISTANCE),
        Row("codes in use", ("codes_used",), _percent, 0.70),
        Row("perplexity of the codes", ("perplexity",), _COUNT),
        Row("bits per pixel", ("bits_per_pixel",), _PLAIN),
        Row("still as told, one object", ("fulfilled", "one_object"), _percent),
        Row("still as told, two objects", ("fulfilled", "two_objects"), _percent),
    ),
    "prompts": (
        Row("one object", ("one_object",), _percent, 0.95),
        Row("held-out pairs", ("held_out_pairs",), _percent, 0.85),
        Row("two objects", ("two_objects",), _percent, 0.75),
        Row("new frames, clip by clip", ("frames_per_second", "one_at_a_time"), _RATE, 8.0),
        Row("new frames, in batches", ("frames_per_second", "in_batches"), _RATE),
    ),
    "stories": (
        Row("scenes fulfilled", ("scenes",), _percent, 0.90),
        Row("object and background stay", ("persistent",), _percent, 0.85),
        Row("both, in all scenes", ("whole",), _percent),
    ),
}
_MOST_NAMED = 10
_TITLES = {
    "reconstruction": "Reconstruction of {clips} clips of {data}",
    "prompts": "Prompts fulfilled, {prompts_of_each_kind} unseen ones of each kind",
    "stories": "{stories} stories of {scenes} scenes",
}


def report(figures: Mapping[str, Any]) -> Group:
    """The blocks of `evaluate` for the eye: each figure with its 95 % interval, and the bar where it has one.

    Below a block stand the kinds of claims that were not always fulfilled, the worst first.
    """
    return Group(*itertools.chain.from_iterable(_section(name, block) for name, block in figures.items()))


def _section(name: str, block: Mapping[str, Any]) -> Iterator[RenderableType]:
    protocol = {"data": "the procedural world, unseen"} | block["protocol"]
    yield Text(_TITLES[name].format(**protocol) + (" (quick: a tenth)" if protocol["quick"] else ""), "bold")
    table = Table("", "measured", "95 % interval", "bar", box=None)
    notes = []
    for row in ROWS[name]:
        whole = row.value(block)
        if whole is None:  # another kind of data, a network that is not at hand, a few clips that all have one object
            continue
        interval = " to ".join(map(row.form, whole.get("interval", ())))
        table.add_row(
            row.label, row.form(whole["share"]), interval, _against(row, whole["share"]) if "world" in protocol else ""
        )
        failing = sorted((each["share"], kind) for kind, each in whole.get("claims", {}).items() if each["share"] < 1)
        if failing:
            notes.append(f"{row.label}, claims: " + ", ".join(f"{kind} {_percent(value)}" for value, kind in failing))
    notes.append(
        "{frames} frames of {size[1]}x{size[0]} at {fps:g} per second; {device}, threads: {threads}; "
        "{seconds:,.0f} s".format(**protocol)
    )
    notes += [f"left out: {sentence}" for sentence in block.get("left_out", ())[:_MOST_NAMED]]
    yield table
    yield from (Padding(Text(note, "dim"), (0, 0, 0, 1)) for note in notes)
    yield Text()


def _against(row: Row, value: float) -> str:
    if row.bar is None:
        return ""
    return f"{row.form(row.bar)}, {'met' if value >= row.bar else 'NOT met'}"


def write_figures(path: str | Path, figures: Mapping[str, Any]) -> list[str]:
    """Write figures as JSON, into what the file holds already: blocks of the same names are replaced.

    Figures of two protocols are never mixed: a block of the file that was measured otherwise (another model, commit,
    seed, sampling) than one of `figures` is left out. Returns a sentence for each such block. With no figures at all
    nothing is written, and only the place is checked: before the work, not after it. Raises PhenakiError for a place
    that cannot be written, and for a file that holds something else.
    """
    kept, left_out = {}, []
    for name, block in read_figures(Path(path)).items():
        differs = next((d for new in figures.values() if (d := _difference(block, new))), None)
        if differs and name not in figures:
            left_out.append(f"the {name} that '{path}' held are left out: they were measured with another {differs}")
        else:
            kept[name] = block
    together = kept | dict(figures)
    with suppress(_Checked), write_atomic(path, "w") as file:
        if not figures:
            raise _Checked
        json.dump({name: together[name] for name in ROWS if name in together}, file, indent=2)
        file.write("\n")
    return left_out


class _Checked(Exception):
    """Leaves the block of `write_atomic` before the file takes its name."""


def _difference(block: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first thing that both protocols state, and differently."""
    one, two = (dict(each["protocol"]) for each in (block, other))
    for protocol in (one, two):
        protocol |= protocol.pop("model")
        for own in ("seconds", "split", "objects"):  # each block has its own
            protocol.pop(own, None)
    return next((key for key in one if key in two and one[key] != two[key]), None)


def read_figures(path: Path) -> dict[str, Any]:
    """The blocks of a file that `write_figures` wrote; none where there is no file. Raises PhenakiError for others."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if any(name not in ROWS or "protocol" not in block for name, block in found.items()):
            raise ValueError
    except (ValueError, AttributeError, TypeError) as error:
        raise PhenakiError(
            f"'{path}' holds no figures of an evaluation, as `phenaki evaluate --out` writes them: name another file"
        ) from error
    return found
