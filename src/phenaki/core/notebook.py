"""Output in the cells of Jupyter and marimo notebooks."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal


def notebook() -> Literal["jupyter", "marimo"] | None:
    """The notebook in whose cell this runs, if it is one. It imports neither library: a notebook has done so."""
    marimo: Any = sys.modules.get("marimo")
    if marimo is not None and marimo.running_in_notebook():
        return "marimo"
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return "jupyter" if shell is not None and hasattr(shell, "kernel") else None


@contextmanager
def notebook_bar(description: str, visible: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar in the cell, which vanishes when done; called with the finished steps and their total."""
    show = _output()
    show(_bar(description, 0, None))
    try:
        yield lambda finished, total: show(_bar(description, finished, total))
    finally:
        show("")


def _bar(description: str, finished: int, total: int | None) -> str:
    value = f'value="{finished}" max="{total}"' if total else ""
    of = f" of {total}" if total else ""
    return f"<span>{html.escape(description)} {finished}{of} <progress {value}></progress></span>"


def _output() -> Callable[[str], None]:
    """Shows HTML where what it showed before was."""
    if notebook() == "marimo":
        marimo: Any = sys.modules["marimo"]
        return lambda text: marimo.output.replace(marimo.Html(text))
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda text: handle.update(HTML(text))
