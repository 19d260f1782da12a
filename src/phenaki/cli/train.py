"""Training: `phenaki train tokenizer`, `phenaki train generator` and `phenaki train critic`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from phenaki.cli.app import app
from phenaki.core.errors import PhenakiError

Recipe = TypeVar("Recipe")

train_app = typer.Typer(
    help="Train a tokenizer on video, then a generator that writes its ids from text.", no_args_is_help=True
)
app.add_typer(train_app, name="train")

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="Name of a complete configuration in phenaki.training.recipes; an unknown name lists those there are.",
        show_default=False,
    ),
]
RunFolderOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="The run's folder: checkpoints, metrics, pictures and the trained weights. If a run of the same recipe "
        "was stopped there, it goes on (see --resume).",
        show_default=False,
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        metavar="PLACE",
        help="Train on this instead of the recipe's data: a folder of videos and pictures, what `phenaki data pack` or "
        "`phenaki data tokenize` wrote, or tar shards ('clips/{000..127}.tar'), here, at http(s):// or s3://. Repeat "
        "it to mix several.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    str,
    typer.Option(
        metavar="auto|never|FILE",
        help="auto goes on from the newest whole checkpoint in the run's folder, never starts anew, and a checkpoint's "
        "file goes on from that one.",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Remove the run that is in the folder, if it is of another recipe or --resume is never: such a folder is "
        "refused otherwise.",
    ),
]
ChangesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe, such as run.steps=2000 optimizer.lr=1e-3.",
        show_default=False,
    ),
]


@train_app.command("tokenizer")
def train_tokenizer(
    recipe: RecipeOption,
    out: RunFolderOption,
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    overfit_one: Annotated[
        bool,
        typer.Option(
            "--overfit-one",
            help="Train on one clip alone, in a new folder, as a test: it must be given back at 35 dB within 1,000 "
            "steps. Else says what is wrong, with exit code 2.",
        ),
    ] = False,
    changes: ChangesArgument = None,
) -> None:
    """Train a tokenizer (first stage): video to a small grid of ids, and back.

    phenaki train tokenizer --recipe cvivit_shapes_64 --out runs/out/tokenizer run.steps=2000

    phenaki train tokenizer --recipe cvivit_shapes_64 --data my/videos --out runs/out/mine data.workers=2

    Ctrl-C saves and stops; the same command goes on from there. Several processes: torchrun --nproc-per-node 2 -m
    phenaki train tokenizer ...
    """
    from phenaki.training import recipes
    from phenaki.training.tokenizer import overfit_one as overfit
    from phenaki.training.tokenizer import train_tokenizer

    configured = _configured(recipes.recipe(recipe, recipes.TOKENIZER_RECIPES), data, changes)
    _check_run_folder(out)
    if overfit_one:
        print(overfit(configured, out))
        return
    _say_trained("tokenizer", train_tokenizer(configured, out, resume, overwrite))


@train_app.command("generator")
def train_generator(
    recipe: RecipeOption,
    out: RunFolderOption,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The trained tokenizer whose ids the generator is to write: its folder, or a whole model's. Token "
            "shards need none, but without it there are no pictures, and the model is written without its tokenizer.",
            show_default=False,
        ),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A text encoder that is trained already, and stays as it is: a T5 or CLIP by its folder or its name "
            "on the Hugging Face hub, or the folder of a text encoder or of a whole model; 'none' for no text at all.",
            show_default="the recipe's",
        ),
    ] = None,
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    changes: ChangesArgument = None,
) -> None:
    """Train a generator (second stage) that writes a tokenizer's ids from text, and its text encoder.

    phenaki train generator --recipe masked_shapes_64 --tokenizer runs/out/tokenizer/tokenizer --out runs/out/generator

    Ctrl-C saves and stops; the same command goes on from there. Several processes: torchrun --nproc-per-node 2 -m
    phenaki train generator ...
    """
    from phenaki.conditioning import encoder_class, named_config
    from phenaki.pipeline import load_part
    from phenaki.training import recipes
    from phenaki.training.generator import train_generator
    from phenaki.worlds.shapes import check

    base = recipes.recipe(recipe, recipes.GENERATOR_RECIPES)
    text = named_config(text_encoder) if text_encoder else None
    configured = _configured(replace(base, text=text) if text else base, data, changes)
    _check_run_folder(out)
    first_stage = load_part(tokenizer, "tokenizer") if tokenizer else None
    reader = None
    if text:
        reader = encoder_class(configured.text)(configured.text)
    elif text_encoder:
        reader = load_part(text_encoder, "text")
    _say_trained("model", train_generator(configured, out, first_stage, reader, resume, overwrite, check))


@train_app.command("critic")
def train_critic(
    recipe: RecipeOption,
    out: RunFolderOption,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The trained model whose ids the critic is to judge: a name in the package, or a folder. All of it "
            "stays as it is.",
            show_default=False,
        ),
    ],
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    changes: ChangesArgument = None,
) -> None:
    """Train a critic for a trained model: it tells real ids from generated ones, and sampling draws those anew that it
    takes for false (`generate --order critic`). What is written is the model with its critic.

    phenaki train critic --recipe critic_shapes_64 --model shapes-64 --out runs/out/critic

    A critic that learns beside its generator: phenaki train generator ... critic.kind=token

    Ctrl-C saves and stops; the same command goes on from there. Several processes: torchrun --nproc-per-node 2 -m
    phenaki train critic ...
    """
    from phenaki.pipeline import Phenaki
    from phenaki.training import recipes
    from phenaki.training.critic import train_critic
    from phenaki.worlds.shapes import check

    configured = _configured(recipes.recipe(recipe, recipes.CRITIC_RECIPES), data, changes)
    _check_run_folder(out)
    _say_trained(
        "model", train_critic(configured, out, Phenaki.from_pretrained(model, "cpu"), resume, overwrite, check)
    )


@train_app.command("export")
def train_export(
    run: Annotated[Path, typer.Argument(help="The run's folder, as --out of its training named it.")],
    out: Annotated[Path, typer.Argument(help="Where to write the tokenizer, or the whole model.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="One of RUN/checkpoints: a folder of shards (run.strategy=fsdp), or a file.",
            show_default="the newest whole one",
        ),
    ] = None,
) -> None:
    """Write the model of a checkpoint, sharded or not: its averaged weights, whole, as safetensors.

    phenaki train export runs/out/mine my/model

    The run's own tokenizer/ or model/ holds that of the last step with pictures; its other parts are taken from there.
    """
    from phenaki.training.export import export

    export(run, out, checkpoint)
    print(f"The averaged weights are in {out}")


def _configured(recipe: Recipe, data: list[str] | None, changes: list[str] | None) -> Recipe:
    """The recipe with its data at other places, and with changes."""
    from phenaki.core.config import override
    from phenaki.data.config import SourceConfig

    if data:
        recipe = replace(recipe, data=replace(recipe.data, sources=tuple(SourceConfig(uri) for uri in data)))
    return override(recipe, changes or [])


def _check_run_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise PhenakiError(f"'{folder}' is a file: name a folder for the run")


def _say_trained(what: str, folder: Path) -> None:
    if int(os.environ.get("RANK", 0)) == 0 and folder.is_dir():
        print(f"The {what} of this run, as last written, is in {folder}")
