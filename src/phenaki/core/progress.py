"""The progress bar: count, rate, remaining time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")

_LINE_INTERVAL = 60  # seconds, without a terminal
_SHORT_BAR = 10  # columns
_RATE_PERIOD = 300  # seconds to average the rate over: one training step may take a minute


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.2f}/s")


class _Details(ProgressColumn):
    """The task's field `details`, cut to the space that the columns before it leave."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        text = Text(task.fields.get("details", ""), no_wrap=True)
        counts = len(task.description) + 2 * len(str(task.total)) + len("  /  00.00/s 0:00:00 ")
        text.truncate(max(0, self._console.width - counts - _SHORT_BAR), overflow="ellipsis")
        return text


def progress_bar(details: bool = False, visible: bool = True, transient: bool = False) -> Progress:
    """A bar on standard error: description, count, rate, remaining time, bar. Hidden without a terminal.

    `details`: a shorter bar, with the field `details` of a task behind it. `transient`: remove it when done.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        *([BarColumn(_SHORT_BAR), _Details(console)] if details else [BarColumn()]),
        console=console,
        transient=transient,
        disable=not (visible and console.is_terminal),
        speed_estimate_period=_RATE_PERIOD,
    )


def format_duration(seconds: float) -> str:
    """Such as "9 min 22 s": the two largest units."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    rest, words = round(seconds), []
    for unit, length in units:
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
        if len(words) == 2 or (words and not count):
            break
    return " ".join(words)


def track(items: Sequence[Item], description: str, visible: bool = True) -> Iterator[Item]:
    """The items, with a progress bar; without a terminal, with a line on standard error every minute."""
    with progress_bar(visible=visible) as bar:
        printed = time.monotonic()
        for number, item in enumerate(bar.track(items, description=description)):
            if visible and bar.disable and time.monotonic() - printed >= _LINE_INTERVAL:
                print(f"{description}: {number:,} of {len(items):,}", file=sys.stderr, flush=True)
                printed = time.monotonic()
            yield item
