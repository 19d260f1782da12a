"""Metrics of several files side by side, if they were measured the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from phenaki.core.errors import PhenakiError
from phenaki.evaluation.metrics_file import SUITES, read_metrics
from phenaki.evaluation.report import ROWS

Metrics = Mapping[str, Any]

# What may differ between comparable metrics: the model, where and when it was measured, and the URI of data whose
# clips are identified by their SHA-256.
_ENVIRONMENT = ("commit", "phenaki", "torch", "device", "threads")
_MAY_DIFFER = {"model", "seconds", "quick", "data", *_ENVIRONMENT}


def compare(paths: Sequence[str | Path]) -> Group:
    """Tables of the metrics in files of `phenaki evaluate --out`; of two files with the difference.

    Raises PhenakiError if two protocols differ in anything but the model and the machine, naming it, and for files
    without a common block.
    """
    if len(paths) < 2:
        raise PhenakiError("comparing takes two files or more")
    for path in paths:
        if not Path(path).is_file():
            raise PhenakiError(f"there is no file '{path}': phenaki evaluate MODEL --out FILE writes one")
    files = {str(path): read_metrics(Path(path)) for path in paths}
    first, *others = files
    names = [name for name in SUITES if all(name in metrics for metrics in files.values())]
    if not names:
        listing = "; ".join(f"'{file}' holds {', '.join(metrics) or 'none'}" for file, metrics in files.items())
        raise PhenakiError(f"these files have no metrics in common: {listing}")
    for name in names:
        for other in others:
            _check_comparable(name, (first, files[first][name]), (other, files[other][name]))
    return Group(*(part for name in names for part in _section(name, {file: files[file][name] for file in files})))


def _check_comparable(name: str, one: tuple[str, Metrics], other: tuple[str, Metrics]) -> None:
    protocols = [
        {key: value for key, value in metrics["protocol"].items() if key not in _MAY_DIFFER}
        for _, metrics in (one, other)
    ]
    differing = [
        f"{key} is {_shortened(protocols[0], key)} and {_shortened(protocols[1], key)}"
        for key in sorted(protocols[0] | protocols[1])
        if protocols[0].get(key) != protocols[1].get(key)
    ]
    if differing:
        raise PhenakiError(
            f"the {name} metrics in '{one[0]}' and '{other[0]}' cannot be compared, their protocols differ: "
            f"{'; '.join(differing)}. Evaluate both with the same settings"
        )


def _shortened(protocol: Mapping[str, Any], key: str) -> str:
    value = protocol.get(key, "not recorded")
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 40 else str(value)


def _section(name: str, blocks: Mapping[str, Metrics]) -> list[RenderableType]:
    table = Table(name, *blocks, *(["difference"] if len(blocks) == 2 else []), box=None)
    for row in ROWS[name]:
        metrics = [row.find(block) for block in blocks.values()]
        if None in metrics:
            continue
        values = [metric["rate"] for metric in metrics]
        cells = [row.format(value) for value in values]
        if len(values) == 2:
            change = values[1] - values[0]
            cells.append(("+" if change >= 0 else "-") + row.format(abs(change)).lstrip("+"))
        table.add_row(row.label, *cells)
    protocols = [block["protocol"] for block in blocks.values()]
    notes = [
        f"different {key}: {', '.join(str(protocol.get(key)) for protocol in protocols)}"
        for key in _ENVIRONMENT
        if len({str(protocol.get(key)) for protocol in protocols}) > 1
    ]
    return [table, *(Padding(Text(note, "dim"), (0, 0, 0, 1)) for note in notes), Text()]
