"""Help texts that read the same with every version of typer: no type beside a flag, no braces around an argument."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# What other programs call our options.
_OTHER_NAMES = {
    "--num-frames": "--frames",
    "--video-length": "--frames",
    "--num-inference-steps": "--steps",
    "--cfg-scale": "--guidance-scale",
    "--cond-scale": "--guidance-scale",
    "--num-samples": "--samples",
    "--num-videos-per-prompt": "--samples",
    "--batch-size": "--samples",
    "--output": "--out",
    "--outdir": "--out",
    "--name": "--model",
    "--start": "--image",
    "--what": "--suite",
}


def suggest_option(error: Exception) -> None:
    """Name our option in the error about an unknown one, where it is another program's or has underscores."""
    if (name := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        dashed = name.replace("_", "-")
        if dashed != name or dashed in _OTHER_NAMES:
            error.possibilities = [_OTHER_NAMES.get(dashed, dashed)]


def _plain(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False) or parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: None
    return parameter


class Command(TyperCommand):
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
