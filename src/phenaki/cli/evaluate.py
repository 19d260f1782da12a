"""Evaluation: `phenaki evaluate` and `phenaki compare`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from phenaki.cli.app import app
from phenaki.core.errors import PhenakiError, shortened

if TYPE_CHECKING:
    from phenaki.pipeline import Phenaki

Network = TypeVar("Network")


class Suite(StrEnum):
    reconstruction = "reconstruction"
    generation = "generation"
    prompts = "prompts"
    stories = "stories"
    live = "live"
    actions = "actions"
    all = "all"


LpipsOption = Annotated[
    Path | None,
    typer.Option(
        "--lpips",
        metavar="PATH",
        help="LPIPS weights: a file, or a folder with vgg16-397923af.pth and vgg.pth.",
        show_default="those in $PHENAKI_CACHE or ~/.cache/phenaki",
        rich_help_panel="Perceptual networks",
    ),
]


@app.command(rich_help_panel="Evaluate")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model in the package, a folder, or owner/name on the Hugging Face Hub."
        ),
    ],
    suite: Annotated[
        Suite,
        typer.Option(
            metavar="NAME",
            help="reconstruction: quality of the tokenizer. generation: clips generated from the captions of --data "
            "against its clips. prompts: rate of unseen prompts that are satisfied. "
            "stories: the same for scenes of stories. live: a causal generator that is steered while it runs. "
            "actions: whether one does what the keys say (needs --judge and --data).",
            show_default="all that apply",
        ),
    ] = Suite.all,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the metrics as JSON, with protocol, seed and commit.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the samples, in minutes.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Clips to reconstruct, to compare with generated ones, or to continue under actions: a folder, a "
            "packed dataset (its validation split), tar shards, or 'shapes', the procedural world.",
            show_default="shapes",
            rich_help_panel="Reconstruction",
        ),
    ] = None,
    clips: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Number of clips, always the same ones.", rich_help_panel="Reconstruction"
        ),
    ] = 512,
    frames: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Frames per clip: 1 + 2k for shapes-64.", rich_help_panel="Reconstruction"
        ),
    ] = 11,
    scorer: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="FOLDER",
            help="What `phenaki train judge` made: it finds actions in frames, for the suite actions.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FOLDER",
            help="Also write report.html there, with pictures of generated beside real clips.",
            show_default=False,
        ),
    ] = None,
    lpips: LpipsOption = None,
    i3d: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="I3D weights, for rFVD: rgb_imagenet.pt.",
            show_default="those in $PHENAKI_CACHE or ~/.cache/phenaki",
            rich_help_panel="Perceptual networks",
        ),
    ] = None,
) -> None:
    """Evaluate a model: reconstruction, and what it generates.

    With --data, generated clips are compared with its held-out ones. On the procedural world a checker verifies each
    caption from the pixels.

    phenaki evaluate shapes-64 --out metrics.json

    phenaki evaluate my/model --data my/shards --out metrics.json --report my/report
    """
    from rich.console import Console

    from phenaki.cli.evaluate_page import write_pairs, write_report
    from phenaki.core.files import writing
    from phenaki.evaluation import PerceptualNetworks, evaluate, report, suites_of, write_metrics
    from phenaki.perceptual import load_i3d, load_lpips
    from phenaki.pipeline import Phenaki, load, load_part
    from phenaki.tokenizers import Tokenizer
    from phenaki.worlds.shapes.evaluation import ShapesEval

    loaded = load(model)
    if not isinstance(loaded, Phenaki | Tokenizer):
        raise PhenakiError(
            f"'{model}' is only a {type(loaded).__name__}, which generates no video: give the complete model, or a "
            "tokenizer"
        )
    uri = None if data == "shapes" else data
    if data is None and isinstance(loaded, Phenaki):
        _check_world(loaded, model)
    inverse_dynamics = load_part(scorer, "inverse_dynamics") if scorer else None
    suites = suites_of(loaded, uri, inverse_dynamics) if suite is Suite.all else (suite.value,)
    if data is None and isinstance(loaded, Tokenizer):
        print(
            f"phenaki: '{model}' is evaluated on the procedural world of shapes, which says little about a tokenizer "
            "of other data: name that with --data",
            file=sys.stderr,
        )
    perceptual = PerceptualNetworks()
    if not {"reconstruction", "generation"}.isdisjoint(suites):
        perceptual = PerceptualNetworks(if_there(load_lpips, lpips), if_there(load_i3d, i3d))
        warn_skipped(LPIPS=perceptual.lpips, FVD=perceptual.i3d)
    console = Console(record=page is not None)
    pictures: list[Path] = []
    if page is not None:
        with writing(page):
            page.mkdir(parents=True, exist_ok=True)
    if out is not None:
        write_metrics(out, {})  # fails before the work if it cannot be written
    for name in suites:  # each is written when done, so that Ctrl-C loses at most one
        options = {"quick": quick, "clips": clips, "frames": frames, "perceptual": perceptual}
        options["inverse_dynamics"] = inverse_dynamics
        if page is not None and name == "generation":
            options["show"] = lambda *pairs: pictures.extend(write_pairs(page, *pairs, fps=loaded.fps))
        metrics = evaluate(loaded, (name,), ShapesEval, data=uri, **options)
        console.print(report(metrics))
        for sentence in write_metrics(out, metrics) if out is not None else ():
            print(f"phenaki: {sentence}", file=sys.stderr)
        if page is not None:
            write_report(page, model, console.export_html(inline_styles=True, clear=False), pictures)
    if page is not None:
        print(f"report and pictures written to {page}")


def _check_world(model: Phenaki, name: str) -> None:
    """Refuse to ask a model about the world of shapes that was not trained on it."""
    from phenaki.worlds.shapes.captions import VOCABULARY

    unknown = [word for word in model.domain.words if word not in VOCABULARY]
    if unknown or not model.domain.words:
        known = f"it was trained on other captions (with {shortened(unknown)})" if unknown else "it does not say so"
        raise PhenakiError(
            f"without --data a model is evaluated on the world of shapes, and '{name}' is not known to be of it: "
            f"{known}. Name its data: phenaki evaluate {name} --data FOLDER, or --data shapes"
        )


def if_there(load: Callable[[Path | None], Network], path: Path | None) -> Network | None:
    """The network, or None if no path is given and the cache lacks its weights."""
    from phenaki.perceptual import MissingWeights

    try:
        return load(path)
    except MissingWeights:
        return None


def warn_skipped(**metrics: object) -> None:
    """Warn about the metrics that are skipped because their network is None."""
    if missing := [name for name, network in metrics.items() if network is None]:
        names, verb = " and ".join(missing), "are" if len(missing) > 1 else "is"
        print(
            f"phenaki: {names} {verb} skipped, no weights: `phenaki weights get lpips i3d` gets them",
            file=sys.stderr,
        )


@app.command(rich_help_panel="Evaluate")
def compare(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files written by `phenaki evaluate --out`.")],
) -> None:
    """Compare metrics side by side. They must come from the same protocol: clips, sizes, networks.

    phenaki compare before.json after.json
    """
    from rich.console import Console

    from phenaki.evaluation import compare

    Console().print(compare(files))
