"""The progress of decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from phenaki.core.notebook import notebook, notebook_bar
from phenaki.core.progress import progress_bar
from phenaki.sampling import OnStep

OnProgress = Callable[[int, int | None], None]
"""Called with the number of finished decoding steps, and the total if it is known."""


@contextmanager
def sampling_progress(visible: bool = True, on_progress: OnProgress | None = None) -> Iterator[OnProgress]:
    """A progress bar that vanishes when done, in a terminal or a notebook; `on_progress` is called too."""
    bar = notebook_bar if visible and notebook() else terminal_bar
    with bar("generating, step", visible) as update:

        def progressed(finished: int, total: int | None) -> None:
            update(finished, total)
            if on_progress is not None:
                on_progress(finished, total)

        yield progressed


@contextmanager
def terminal_bar(description: str, visible: bool) -> Iterator[OnProgress]:
    with progress_bar(visible=visible, transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda finished, total: bar.update(task, completed=finished, total=total)


def counting(on_progress: OnProgress | None, total: int | None) -> OnStep | None:
    """The `on_step` of several decodings in a row: it counts on where `decode` begins again."""
    finished = count(1)
    return None if on_progress is None else lambda _: on_progress(next(finished), total)
