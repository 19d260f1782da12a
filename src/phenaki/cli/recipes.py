"""The training recipes: `phenaki recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from phenaki.cli.app import app


@app.command(rich_help_panel="Train")
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Print this recipe as YAML.", show_default=False),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print all keys with types, defaults and meaning, as Markdown.")
    ] = False,
) -> None:
    """List the training recipes, or print one.

    phenaki recipes masked_shapes_64
    """
    if reference:
        from phenaki.cli import recipes_page

        print(recipes_page.reference(), end="")
        return

    import yaml

    from phenaki.core.config import to_dict
    from phenaki.training import recipes

    if name is not None:
        every = {name: recipe for known in recipes.STAGES.values() for name, recipe in known.items()}
        print(yaml.safe_dump(to_dict(recipes.recipe(name, every)), sort_keys=False), end="")
        return
    for stage, known in recipes.STAGES.items():
        print(f"{stage} (phenaki train {stage} --recipe NAME)")
        for recipe_name, recipe in sorted(known.items()):
            sentence = " ".join((recipe.__doc__ or "").split()).partition(". ")[0].rstrip(".")
            print(f"  {recipe_name:24}{sentence}")
