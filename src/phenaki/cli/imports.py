"""Weights of earlier reproductions: `phenaki import`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phenaki.cli.app import app

if TYPE_CHECKING:
    from phenaki.compat.importing import Imported

import_app = typer.Typer(
    help="Convert checkpoints of earlier reproductions.",
    no_args_is_help=True,
)
app.add_typer(import_app, name="import", rich_help_panel="Other")


class Part(StrEnum):
    tokenizer = "tokenizer"
    maskgit = "maskgit"


CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .safetensors file, or a .pt or .bin file of torch.save (only tensors are read).",
        show_default=False,
    ),
]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of the component.", show_default=False)]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE.json",
        help="Constructor arguments that cannot be inferred from the weights, such as image_size, and fps.",
        show_default=False,
    ),
]


@import_app.command("obvious-cvivit")
def import_obvious(checkpoint: CheckpointArgument, out: OutArgument, config: ConfigOption = None) -> None:
    """Import the C-ViViT released by Obvious Research.

    phenaki import obvious-cvivit CVIVIT/pytorch_model.bin cvivit-obvious
    """
    from phenaki.compat.importing import import_tokenizer

    _say(import_tokenizer(checkpoint, out, "obvious-cvivit", config), out)


@import_app.command("phenaki-pytorch")
def import_phenaki_pytorch(
    checkpoint: CheckpointArgument,
    out: OutArgument,
    part: Annotated[Part, typer.Option(help="Network to import: C-ViViT or MaskGIT.")] = Part.tokenizer,
    config: ConfigOption = None,
) -> None:
    """Import a C-ViViT or MaskGIT trained with phenaki-pytorch.

    echo '{"image_size": 128}' > sizes.json

    phenaki import phenaki-pytorch vae.100000.pt my-tokenizer --config sizes.json

    phenaki import phenaki-pytorch model-50.pt my-generator --part maskgit --config sizes.json
    """
    from phenaki.compat.importing import import_maskgit, import_tokenizer

    if part is Part.maskgit:
        _say(import_maskgit(checkpoint, out, config), out)
    else:
        _say(import_tokenizer(checkpoint, out, "phenaki-pytorch", config), out)


def _say(imported: Imported, out: Path) -> None:
    count = sum(parameter.numel() for parameter in imported.module.parameters())
    print(f"{out}: {count / 1e6:.1f} M parameters; skipped: {imported.describe_skipped()}.")
    if not getattr(imported.module, "causal", True):
        print("It was trained without causality: it encodes complete clips, not streams.")
