"""Weights of other networks: `phenaki weights get`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.help import App
from phenaki.core.errors import PhenakiError, did_you_mean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

weights_app = App(help="Get the published weights of LPIPS, I3D, T5 and CLIP.")
app.add_typer(weights_app, name="weights", rich_help_panel="Evaluate")

_SHORT_NAMES = {"t5": "google/t5-v1_1-base", "clip": "openai/clip-vit-base-patch32"}


@weights_app.callback()
def _group() -> None:
    pass


@weights_app.command("get")
def get(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="lpips (sharper tokenizers, and a metric), i3d (FVD), t5, clip, or owner/name of a text encoder on "
            "the Hugging Face Hub.",
        ),
    ],
) -> None:
    """Download weights once, into $PHENAKI_CACHE (~/.cache/phenaki) or the cache of the Hugging Face Hub.

    phenaki weights get lpips i3d
    """
    from phenaki.core import hub
    from phenaki.core.progress import progress_bar
    from phenaki.perceptual.download import WEIGHTS, fetch

    known = [*WEIGHTS, *_SHORT_NAMES]
    for name in names:
        if name not in known and "/" not in name:
            raise PhenakiError(
                f"there are no weights '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}, or owner/name"
            )
    for name in names:
        if name not in WEIGHTS:
            print(f"{name}: {hub.fetch_text_encoder(_SHORT_NAMES.get(name, name))}")
            continue
        for file in WEIGHTS[name]:
            with progress_bar(transient=True) as bar:
                task = bar.add_task(f"{file.name}, bytes", total=None)

                def advance(done: int, size: int | None, bar: Progress = bar, task: TaskID = task) -> None:
                    bar.update(task, completed=done, total=size)

                path = fetch(file, advance)
            print(f"{name}: {path}")
