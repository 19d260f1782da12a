"""Training: `phenaki train tokenizer`, `generator`, `critic` and `export`."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from phenaki.cli.app import app
from phenaki.cli.help import App, Group
from phenaki.core.errors import PhenakiError

Recipe = TypeVar("Recipe")


class _Stages(Group):
    """Options belong to the stages: `phenaki train --recipe NAME` asks which one."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            self._ask([word for option, word in pairwise(args) if option in ("--recipe", "-r")], args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:
        if "_" in args[0]:
            self._ask(args[:1], ["--recipe", *args])
        return super().resolve_command(ctx, args)

    def _ask(self, recipes: list[str], args: list[str]) -> NoReturn:
        from phenaki.training.recipes import stage_of

        stage = stage_of(recipes[0]) if recipes else None
        known = f"; '{recipes[0]}' is a {stage} recipe: phenaki train {stage} {shlex.join(args)}" if stage else ""
        raise PhenakiError(f"train what? Say tokenizer, generator, critic or judge after `phenaki train`{known}")


train_app = App(cls=_Stages, help="Train a tokenizer, a generator, a critic, a judge of actions.")
app.add_typer(train_app, name="train", rich_help_panel="Train")

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME",
        help="A complete configuration (see `phenaki recipes`).",
        show_default=False,
    ),
]
RunFolderOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="The run's folder: checkpoints, metrics, previews and the trained weights. A stopped run of the same "
        "recipe is resumed there (see --resume).",
        show_default=False,
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        metavar="URI",
        help="Train on this data instead of the recipe's: a folder of videos and pictures, output of `phenaki data "
        "pack` or `tokenize`, or tar shards ('clips/{000..127}.tar'), local, http(s):// or s3://. Repeat it to mix "
        "several.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    str,
    typer.Option(
        metavar="auto|never|FILE",
        help="auto: resume from the newest complete checkpoint in the folder; never: start over; FILE: resume from "
        "this checkpoint.",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Delete the run in the folder if its recipe differs, or with --resume never; otherwise that is an error.",
    ),
]
ChangesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Override settings of the recipe, for example run.steps=2000 optimizer.lr=1e-3.",
        show_default=False,
    ),
]


@train_app.command("tokenizer")
def train_tokenizer(
    recipe: RecipeOption,
    out: RunFolderOption,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Fine-tune a tokenizer of the same sizes: its folder, or that of a complete model.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    overfit_one: Annotated[
        bool,
        typer.Option(
            "--overfit-one",
            help="Sanity check: overfit a single clip in a new folder. It must reach 35 dB PSNR within 1,000 steps; "
            "otherwise prints a diagnosis and exits with code 2.",
        ),
    ] = False,
    changes: ChangesArgument = None,
) -> None:
    """Train a tokenizer (first stage), which compresses video to a small grid of ids.

    phenaki train tokenizer --recipe cvivit_shapes_64 --out runs/out/tokenizer run.steps=2000

    phenaki train tokenizer --recipe cvivit_shapes_64 --data my/videos --out runs/out/mine data.workers=2

    Ctrl-C saves and stops; the same command resumes. On several GPUs:

    torchrun --nproc-per-node 2 -m phenaki train tokenizer ...
    """
    from phenaki.pipeline import load_part
    from phenaki.training import recipes
    from phenaki.training.tokenizer import overfit_one as overfit
    from phenaki.training.tokenizer import train_tokenizer

    configured = _configured(recipes.recipe(recipe, recipes.TOKENIZER_RECIPES), data, changes)
    _check_run_folder(out)
    if overfit_one:
        print(overfit(configured, out))
        return
    init = load_part(init_from, "tokenizer") if init_from else None
    _say_trained("tokenizer", train_tokenizer(configured, out, resume, overwrite, init))


@train_app.command("generator")
def train_generator(
    recipe: RecipeOption,
    out: RunFolderOption,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The trained tokenizer: its folder, or that of a complete model. Optional with token shards, but then "
            "there are no previews, and the model is saved without a tokenizer.",
            show_default=False,
        ),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="A frozen, pretrained text encoder: T5 or CLIP by folder or Hub name, the folder of a text encoder or "
            "of a complete model, or 'none' to train without text.",
            show_default="the recipe's",
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Fine-tune the generator of a model, a bidirectional one also to a causal one.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    changes: ChangesArgument = None,
) -> None:
    """Train a generator (second stage), which predicts the tokenizer's ids from text, and its text encoder.

    phenaki train generator --recipe masked_shapes_64 --tokenizer runs/out/tokenizer/tokenizer --out runs/out/generator

    Ctrl-C saves and stops; the same command resumes. On several GPUs:

    torchrun --nproc-per-node 2 -m phenaki train generator ...
    """
    from phenaki.conditioning import encoder_class, named_config
    from phenaki.core.hub import resolve
    from phenaki.pipeline import load_model, load_part
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
    init = load_model(resolve(init_from))[0] if init_from else None
    _say_trained("model", train_generator(configured, out, first_stage, reader, resume, overwrite, check, init))


@train_app.command("critic")
def train_critic(
    recipe: RecipeOption,
    out: RunFolderOption,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The trained model to add a critic to: a name in the package, or a folder. It stays frozen.",
            show_default=False,
        ),
    ],
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    changes: ChangesArgument = None,
) -> None:
    """Train a token critic for a trained model.

    It learns to tell real ids from generated ones; sampling with `--order critic` resamples those it rejects.

    phenaki train critic --recipe critic_shapes_64 --model shapes-64 --out runs/out/critic

    To train a critic together with its generator: phenaki train generator ... critic.kind=token

    Ctrl-C saves and stops; the same command resumes. On several GPUs:

    torchrun --nproc-per-node 2 -m phenaki train critic ...
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


@train_app.command("judge")
def train_inverse_dynamics(
    recipe: RecipeOption,
    out: RunFolderOption,
    data: DataOption = None,
    resume: ResumeOption = "auto",
    overwrite: OverwriteOption = False,
    changes: ChangesArgument = None,
) -> None:
    """Train an inverse dynamics model, which finds pressed buttons in frames and so scores generated video.

    phenaki train judge --recipe inverse_dynamics_64 --data my/recordings --out runs/out/judge

    phenaki evaluate runs/out/world/model --suite actions --judge runs/out/judge/inverse_dynamics --data my/recordings

    Ctrl-C saves and stops; the same command resumes.
    """
    from phenaki.training import recipes
    from phenaki.training.inverse_dynamics import train_inverse_dynamics

    configured = _configured(recipes.recipe(recipe, recipes.INVERSE_DYNAMICS_RECIPES), data, changes)
    _check_run_folder(out)
    _say_trained("inverse dynamics model", train_inverse_dynamics(configured, out, resume, overwrite))


@app.command("export", rich_help_panel="Train", hidden=True)  # where people look for it
@train_app.command("export")
def train_export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, --out of its training.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder for the tokenizer, or the complete model.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A checkpoint in RUN/checkpoints: a file, or a folder of shards (run.strategy=fsdp).",
            show_default="the newest complete one",
        ),
    ] = None,
) -> None:
    """Export the EMA weights of a checkpoint, sharded or not, as safetensors.

    phenaki train export runs/out/mine my/model

    Other components come from the run's tokenizer/ or model/, as of the last preview step.
    """
    from phenaki.training.export import export

    export(run, out, checkpoint)
    print(f"EMA weights written to {out}")


def _configured(recipe: Recipe, data: list[str] | None, changes: list[str] | None) -> Recipe:
    """The recipe with other data sources, and with overrides."""
    from phenaki.core.config import override
    from phenaki.data.config import SourceConfig

    if data and (named := [change for change in changes or () if re.match(r"\s*data\.sources\s*=", change)]):
        raise PhenakiError(
            f"--data {data[0]} and {named[0]} both say what to train on: give all sources in one of the two (--data "
            "may be repeated)"
        )
    if data:
        recipe = replace(recipe, data=replace(recipe.data, sources=tuple(SourceConfig(uri) for uri in data)))
    return override(recipe, changes or [])


def _check_run_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise PhenakiError(f"'{folder}' is a file: give a folder for the run")


def _say_trained(what: str, folder: Path) -> None:
    if int(os.environ.get("RANK", 0)) == 0 and folder.is_dir():
        print(f"The {what} is in {folder}")
