"""Help texts that read the same with every version of typer: no type beside a flag, no braces around an argument."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from phenaki.core.errors import PhenakiError

# What other programs call our options.
_OTHER_NAMES = {
    "--num-frames": "--frames",
    "--video-length": "--frames",
    "--length": "--frames",
    "--seconds": "--frames",
    "--duration": "--frames",
    "--num-inference-steps": "--steps",
    "--cfg-scale": "--guidance-scale",
    "--cond-scale": "--guidance-scale",
    "--num-samples": "--samples",
    "--num-videos-per-prompt": "--samples",
    "--batch-size": "--samples",
    "--resolution": "--size",
    "--gpu": "--device",
    "--checkpoint": "--model",
    "--output": "--out",
    "--outdir": "--out",
    "--output-dir": "--out",
    "--config": "--recipe",
    "--name": "--model",
    "--start": "--image",
    "--what": "--suite",
}
# What they call settings of a recipe.
_SETTINGS = {
    "--steps": "run.steps",
    "--max-steps": "run.steps",
    "--batch": "data.batch",
    "--batch-size": "data.batch",
    "--lr": "optimizer.lr",
    "--learning-rate": "optimizer.lr",
    "--workers": "data.workers",
    "--num-workers": "data.workers",
    "--size": "data.size",
    "--resolution": "data.size",
    "--fps": "data.fps",
    "--seed": "run.seed",
    "--device": "run.device",
    "--precision": "run.precision",
}

_MAY_BE_EMPTY = {"--negative-prompt", "--template"}


def suggest_option(error: Any) -> None:
    """In the error about an unknown option, name ours, or the argument that stands for it."""
    if not hasattr(error, "possibilities") or error.ctx is None:
        return
    parameters = {parameter.name: parameter for parameter in error.ctx.command.params}
    options = {option for parameter in parameters.values() for option in parameter.opts}
    name = error.option_name.replace("_", "-")
    if _OTHER_NAMES.get(name, name) in options:
        error.possibilities = [_OTHER_NAMES.get(name, name)]
    elif name in _SETTINGS and "changes" in parameters:
        error.possibilities = []
        error.message += f". It is a setting of the recipe: write {_SETTINGS[name]}=VALUE, without dashes"
    elif name in ("--prompt", "--prompts", "--text", "-p") and "prompts" in parameters:
        error.possibilities = []
        error.message += '. A prompt has none before it: phenaki generate "a red circle"'


def _plain(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False) or parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: None
    return parameter


class Command(TyperCommand):
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Refuses an empty value, as of a shell's variable that is not set: as a path it is the current folder."""
        empty = {option for option, value in pairwise(args) if not value}
        empty |= {argument[:-1] for argument in args if argument.endswith("=")}
        for parameter in self.get_params(ctx):
            found = empty.intersection(parameter.opts) - _MAY_BE_EMPTY
            if found and not getattr(parameter, "is_flag", False):
                raise PhenakiError(f"{found.pop()} is empty: give a value, or leave it out")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: typer.Context) -> list[Any]:
        return [_plain(parameter) for parameter in super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:
        pieces = ["[OPTIONS]"]
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                name = parameter.metavar or parameter.name.upper()
                name = name if parameter.required else f"[{name}]"
                pieces.append(f"{name}..." if parameter.nargs != 1 else name)
        return pieces


class Group(TyperGroup):
    def get_params(self, ctx: typer.Context) -> list[Any]:
        return [_plain(parameter) for parameter in super().get_params(ctx)]


class App(typer.Typer):
    """A typer application with these help texts, and with -h."""

    def __init__(self, *, cls: type[TyperGroup] = Group, **options: Any) -> None:
        names = {"help_option_names": ["-h", "--help"]}
        super().__init__(cls=cls, no_args_is_help=True, context_settings=names, **options)

    def command(self, name: str | None = None, *, cls: type[TyperCommand] = Command, **options: Any) -> Any:
        return super().command(name, cls=cls, **options)
