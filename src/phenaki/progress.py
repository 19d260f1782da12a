"""The one progress bar: how many, how fast, how long still."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

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
