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
_RATE_PERIOD = 300  # seconds to average the rate over: one training step may take a minute


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.2f}/s")


def progress_bar(*more: ProgressColumn, visible: bool = True, transient: bool = False) -> Progress:
    """A bar on standard error: description, count, bar, rate, remaining time, `more`. Hidden without a terminal.

    `transient`: remove it when done.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        _Rate(),
        TimeRemainingColumn(),
        *more,
        console=console,
        transient=transient,
        disable=not (visible and console.is_terminal),
        speed_estimate_period=_RATE_PERIOD,
    )


def track(items: Sequence[Item], description: str, visible: bool = True) -> Iterator[Item]:
    """The items, with a progress bar; without a terminal, with a line on standard error every minute."""
    with progress_bar(visible=visible) as bar:
        printed = time.monotonic()
        for number, item in enumerate(bar.track(items, description=description)):
            if visible and bar.disable and time.monotonic() - printed >= _LINE_INTERVAL:
                print(f"{description}: {number:,} of {len(items):,}", file=sys.stderr, flush=True)
                printed = time.monotonic()
            yield item
