"""Training runs: `phenaki runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app


@app.command(rich_help_panel="Train")
def runs(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder with runs anywhere below it.", show_default=False),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a self-contained HTML page with curves, pictures and videos.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List training runs with their state, progress and best metrics.

    phenaki runs runs/out --html runs.html
    """
    import time

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from phenaki.cli.runs_page import ago, format_value, write_page
    from phenaki.training.runs import find_runs

    found = find_runs(folder)
    table = Table(box=box.SIMPLE, padding=(0, 2, 0, 0))
    for name in ("run", "state", "step", "best", "pictures"):
        table.add_column(name, overflow="fold")
    for run in found:
        name = str(run.folder.relative_to(folder)) if run.folder != folder else str(folder)
        best = "\n".join(f"{name} {format_value(value)} at {step:,}" for name, (value, step) in run.best.items())
        pictures = "\n".join(picture.name for picture in run.pictures if picture.suffix == ".png")
        state = f"{run.state}: {run.sentence}" if run.sentence else run.state
        state += f"\n{ago(time.time() - run.time)}" if run.time else ""
        table.add_row(f"{name}\n{run.stage}", state, f"{run.step:,} of\n{run.steps:,}", best, pictures)
    Console(highlight=False, markup=False).print(table)
    if html:
        write_page(found, html)
        print(f"page written to {html}")
