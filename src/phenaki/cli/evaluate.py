"""Judging: `phenaki evaluate`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app


class What(StrEnum):
    reconstruction = "reconstruction"
    prompts = "prompts"
    stories = "stories"
    all = "all"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model in the package, a folder, or owner/name on Hugging Face.")],
    what: Annotated[
        What,
        typer.Option(
            help="reconstruction: how well the tokenizer gives unseen clips back. prompts: for how many unseen prompts "
            "all that the caption claims is to be seen. stories: the same for the scenes of stories."
        ),
    ] = What.all,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the figures, with protocol, seed and commit, as JSON.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the samples: a first look in minutes.")] = False,
) -> None:
    """Judge a model on the procedural world of shapes, where a checker says from the pixels alone what is to be seen.

    phenaki evaluate shapes-64 --out figures.json
    """
    from rich.console import Console

    from phenaki.evaluate import WHAT, evaluate, report, write_figures
    from phenaki.pipeline import load
    from phenaki.tokenizer import Tokenizer

    loaded = load(model)
    parts: tuple[str, ...] = (what.value,)
    if what is What.all:
        parts = ("reconstruction",) if isinstance(loaded, Tokenizer) else WHAT
    if out is not None:
        write_figures(out, {})  # a place that cannot be written is told before the work
    for part in parts:  # each is written as it is done, so that Ctrl-C loses no more than one
        figures = evaluate(loaded, what=(part,), quick=quick)
        Console().print(report(figures))
        for sentence in write_figures(out, figures) if out is not None else ():
            print(f"phenaki: {sentence}", file=sys.stderr)
