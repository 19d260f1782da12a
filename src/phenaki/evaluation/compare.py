"""Figures of several files beside one another, where they were measured alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from phenaki.core.errors import PhenakiError
from phenaki.evaluation.report import ROWS, read_figures

Figures = Mapping[str, Any]

# What may differ between comparable figures: the model itself, where and when it was measured, and the name of a place
# whose clips are told by their SHA-256.
_WITH_WHAT = ("commit", "phenaki", "torch", "device", "threads")
_OF_THE_RUN = {"model", "seconds", "quick", "data", *_WITH_WHAT}


def compare(paths: Sequence[str | Path]) -> Group:
    """The figures in files that `phenaki evaluate --out` wrote, for the eye; of two files with their difference.

    Raises PhenakiError where the protocols of two files differ in anything but the model and the machine, naming it,
    and for files without a common block.
    """
    if len(paths) < 2:
        raise PhenakiError("to compare takes two files or more")
    for path in paths:
        if not Path(path).is_file():
            raise PhenakiError(f"there is no file '{path}': phenaki evaluate MODEL --out FILE writes one")
    files = {str(path): read_figures(Path(path)) for path in paths}
    first, *others = files
    names = [name for name in ROWS if all(name in figures for figures in files.values())]
    if not names:
        raise PhenakiError(f"these files have no figures in common: {_held(files)}")
    for name in names:
        for other in others:
            _check_alike(name, (first, files[first][name]), (other, files[other][name]))
    return Group(*(part for name in names for part in _section(name, {file: files[file][name] for file in files})))


def _check_alike(name: str, one: tuple[str, Figures], other: tuple[str, Figures]) -> None:
    protocols = [
        {key: value for key, value in figures["protocol"].items() if key not in _OF_THE_RUN}
        for _, figures in (one, other)
    ]
    differing = [
        f"{key} is {_said(protocols[0], key)} and {_said(protocols[1], key)}"
        for key in sorted(protocols[0] | protocols[1])
        if protocols[0].get(key) != protocols[1].get(key)
    ]
    if differing:
        raise PhenakiError(
            f"the {name} in '{one[0]}' and '{other[0]}' cannot be compared, since they were measured differently: "
            f"{'; '.join(differing)}. Measure both alike"
        )


def _said(protocol: Mapping[str, Any], key: str) -> str:
    value = protocol.get(key, "not said")
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 40 else str(value)


def _held(files: Mapping[str, Figures]) -> str:
    return "; ".join(f"'{file}' holds {', '.join(figures) or 'none'}" for file, figures in files.items())


def _section(name: str, blocks: Mapping[str, Figures]) -> list[RenderableType]:
    table = Table(name, *blocks, *(["difference"] if len(blocks) == 2 else []), box=None)
    for row in ROWS[name]:
        found = [row.value(block) for block in blocks.values()]
        if None in found:
            continue
        values = [figure["share"] for figure in found]
        cells = [row.form(value) for value in values]
        if len(values) == 2:
            change = values[1] - values[0]
            cells.append(("+" if change >= 0 else "-") + row.form(abs(change)).lstrip("+"))
        table.add_row(row.label, *cells)
    protocols = [block["protocol"] for block in blocks.values()]
    notes = [
        f"another {key}: {', '.join(str(protocol.get(key)) for protocol in protocols)}"
        for key in _WITH_WHAT
        if len({str(protocol.get(key)) for protocol in protocols}) > 1
    ]
    return [table, *(Padding(Text(note, "dim"), (0, 0, 0, 1)) for note in notes), Text()]
