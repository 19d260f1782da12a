"""The progress of decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from phenaki.core.progress import progress_bar
from phenaki.sampling import OnStep

OnProgress = Callable[[int, int | None], None]
"""Called with the number of finished decoding steps, and the total if it is known."""


@contextmanager
def sampling_progress(visible: bool = True) -> Iterator[OnProgress]:
    """A progress bar that vanishes when done."""
    with progress_bar(visible=visible, transient=True) as bar:
        task = bar.add_task("generating, step", total=None)

        def on_progress(finished: int, total: int | None) -> None:
            bar.update(task, completed=finished, total=total)

        yield on_progress


def counting(on_progress: OnProgress | None, total: int | None) -> OnStep | None:
    """The `on_step` of several decodings in a row: it counts on where `decode` begins again."""
    finished = count(1)
    return None if on_progress is None else lambda _: on_progress(next(finished), total)
