"""Models to the Hugging Face hub: `phenaki push`."""

from __future__ import annotations

from typing import Annotated

import typer

from phenaki.cli.app import app


@app.command(rich_help_panel="Other")
def push(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="The folder of a model, or of a tokenizer alone.", show_default=False),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Where to; created if it is not there.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="A branch, created if it is not there.", show_default="main")
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub, with its card and metrics. Log in first: hf auth login

    phenaki push runs/generator/model owner/name
    """
    from phenaki.core import hub
    from phenaki.pipeline.loading import push_folder

    print(push_folder(hub.resolve(model), repository, private=private or None, revision=revision))
