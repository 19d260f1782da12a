"""Judging: `phenaki evaluate` and `phenaki compare`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from phenaki.cli.app import app
from phenaki.core.errors import PhenakiError

Network = TypeVar("Network")


class Suite(StrEnum):
    reconstruction = "reconstruction"
    prompts = "prompts"
    stories = "stories"
    all = "all"


LpipsOption = Annotated[
    Path | None,
    typer.Option(
        "--lpips",
        metavar="PATH",
        help="Weights of LPIPS: a file, or the folder of vgg16-397923af.pth and vgg.pth.",
        show_default="$PHENAKI_CACHE or ~/.cache/phenaki, if they are there",
        rich_help_panel="Networks that judge",
    ),
]


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model in the package, a folder, or owner/name on Hugging Face.")],
    suite: Annotated[
        Suite,
        typer.Option(
            help="reconstruction: how well the tokenizer gives clips back. prompts: for how many unseen prompts all "
            "that the caption claims is to be seen. stories: the same for the scenes of stories.",
            show_default="all that can be judged",
        ),
    ] = Suite.all,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the metrics, with protocol, seed and commit, as JSON.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the samples: a first look in minutes.")] = False,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Reconstruct clips of this place: a folder, a packed data set (its validation part), tar shards "
            "anywhere, or 'shapes', the procedural world.",
            rich_help_panel="Reconstruction",
        ),
    ] = "shapes",
    clips: Annotated[
        int, typer.Option(min=1, help="How many clips, always the same ones.", rich_help_panel="Reconstruction")
    ] = 512,
    frames: Annotated[
        int,
        typer.Option(min=1, help="Frames of a clip: 1 + 2k for a time step of 2.", rich_help_panel="Reconstruction"),
    ] = 11,
    lpips: LpipsOption = None,
    i3d: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Weights of I3D, for rFVD: rgb_imagenet.pt.",
            show_default="$PHENAKI_CACHE or ~/.cache/phenaki, if it is there",
            rich_help_panel="Networks that judge",
        ),
    ] = None,
) -> None:
    """Judge a model. On the procedural world a checker says from the pixels alone what is to be seen.

    phenaki evaluate shapes-64 --out metrics.json

    phenaki evaluate my/model --suite reconstruction --data my/shards --out metrics.json
    """
    from rich.console import Console

    from phenaki.evaluation import SUITES, PerceptualNetworks, evaluate, report, write_metrics
    from phenaki.perceptual import load_i3d, load_lpips
    from phenaki.pipeline import Phenaki, load
    from phenaki.tokenizers import Tokenizer
    from phenaki.worlds.shapes.evaluation import ShapesEval

    loaded = load(model)
    if not isinstance(loaded, Phenaki | Tokenizer):
        raise PhenakiError(
            f"'{model}' is a {type(loaded).__name__} alone, which makes no video: name the whole model that it is a "
            "part of, or a tokenizer"
        )
    suites: tuple[str, ...] = (suite.value,)
    if suite is Suite.all:
        suites = ("reconstruction",) if isinstance(loaded, Tokenizer) or data != "shapes" else SUITES
    perceptual = PerceptualNetworks()
    if "reconstruction" in suites:
        perceptual = PerceptualNetworks(if_there(load_lpips, lpips), if_there(load_i3d, i3d))
        warn_skipped(LPIPS=perceptual.lpips, rFVD=perceptual.i3d)
    if out is not None:
        write_metrics(out, {})  # fails before the work if it cannot be written
    for name in suites:  # each is written as it is done, so that Ctrl-C loses no more than one
        uri = None if data == "shapes" else data
        options = {"quick": quick, "clips": clips, "frames": frames, "perceptual": perceptual}
        metrics = evaluate(loaded, (name,), ShapesEval, data=uri, **options)
        Console().print(report(metrics))
        for sentence in write_metrics(out, metrics) if out is not None else ():
            print(f"phenaki: {sentence}", file=sys.stderr)


def if_there(load: Callable[[Path | None], Network], path: Path | None) -> Network | None:
    """The network, or None where no path is given and the cache does not hold its weights."""
    from phenaki.perceptual import MissingWeights

    try:
        return load(path)
    except MissingWeights:
        return None


def warn_skipped(**metrics: object) -> None:
    """Say which metrics, by name, are skipped because their network is None."""
    if missing := [name for name, network in metrics.items() if network is None]:
        names, verb = " and ".join(missing), "are" if len(missing) > 1 else "is"
        print(
            f"phenaki: {names} {verb} skipped for want of weights: `phenaki doctor` says what to get", file=sys.stderr
        )


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(metavar="FILE FILE...", help="What `phenaki evaluate --out` wrote.")],
) -> None:
    """Compare metrics side by side. Refused where they were measured differently: other clips, sizes, networks.

    phenaki compare before.json after.json
    """
    from rich.console import Console

    from phenaki.evaluation import compare

    Console().print(compare(files))
