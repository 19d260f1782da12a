"""The one progress bar: how many, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")

_SAID_EVERY = 60  # seconds, where there is no terminal
_PERIOD = 300  # seconds over which the rate is taken: a training step alone may last a minute


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.2f}/s")


def progress_bar(*more: ProgressColumn, shown: bool = True, transient: bool = False) -> Progress:
    """A bar on standard error, quiet where that is no terminal: description, count, bar, rate, remaining time, `more`.

    `transient`: it vanishes when it is done.
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
        disable=not (shown and console.is_terminal),
        speed_estimate_period=_PERIOD,
    )


def tracked(items: Sequence[Item], doing: str, shown: bool = True) -> Iterator[Item]:
    """The items, with a bar; where standard error is no terminal, with a line there every minute."""
    with progress_bar(shown=shown) as bar:
        said = time.monotonic()
        for number, item in enumerate(bar.track(items, description=doing)):
            if shown and bar.disable and time.monotonic() - said >= _SAID_EVERY:
                print(f"{doing}: {number:,} of {len(items):,}", file=sys.stderr, flush=True)
                said = time.monotonic()
            yield item
