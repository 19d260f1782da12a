"""Reconstruct videos with a tokenizer: `phenaki reconstruct`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import BAD_INPUT, app
from phenaki.cli.evaluate import LpipsOption, if_there, warn_skipped
from phenaki.cli.options import ModelOption
from phenaki.core.errors import PhenakiError


@app.command(rich_help_panel="Evaluate")
def reconstruct(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Videos and pictures, or folders of them.")],
    model: ModelOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder, created if missing.")
    ] = Path("out/reconstruct"),
    frames: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Frames to take from the middle of each video: 1 + 2k for shapes-64."),
    ] = 11,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Whole videos of any length, at the model's frame rate.")
    ] = False,
    lpips: LpipsOption = None,
) -> None:
    """Encode and decode videos with a tokenizer, and measure the difference.

    phenaki reconstruct my/clip.mp4 --model my/model -o out

    Writes NAME.mp4 (original left, reconstruction right), NAME.png (original on top) and metrics.json.
    """
    from rich.console import Console

    from phenaki.core.files import write_atomic, writing
    from phenaki.core.precision import best_device
    from phenaki.core.progress import progress_bar
    from phenaki.evaluation.files import metrics_json, metrics_table, reconstruct_file
    from phenaki.perceptual import load_lpips
    from phenaki.pipeline import load_part

    files = _find_files(videos)
    if out.is_file():
        raise PhenakiError(f"'{out}' is a file: give a folder with --out")
    tokenizer = load_part(model, "tokenizer").to(best_device())
    wanted = None if all_frames else frames
    if wanted:
        tokenizer.grid(wanted, *tokenizer.config.image_size)
    network = if_there(load_lpips, lpips)
    network = network.to(best_device()) if network else None
    warn_skipped(LPIPS=network)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    done, refused = [], 0
    with progress_bar(transient=True) as bar:
        for file, name in zip(files, _unique_names(files), strict=True):
            task = bar.add_task(f"frames of {file.name}", total=None)
            try:
                done.append(reconstruct_file(file, tokenizer, out / name, wanted, network, partial(bar.advance, task)))
            except PhenakiError as error:
                print(f"phenaki: {error}", file=sys.stderr)
                refused += 1
            bar.remove_task(task)
    if done:
        with write_atomic(out / "metrics.json", "w") as file:
            json.dump(metrics_json(done, tokenizer, wanted, network), file, indent=2)
            file.write("\n")
        Console().print(metrics_table(done))
        print(f"videos, contact sheets and metrics.json written to {out}")
    if refused:
        raise typer.Exit(BAD_INPUT)


def _unique_names(files: Sequence[Path]) -> list[str]:
    """An output name for each file: its stem, numbered where several files share one."""
    names: list[str] = []
    for file in files:
        candidates = chain([file.stem], (f"{file.stem}_{number}" for number in count(2)))
        names.append(next(name for name in candidates if name not in names))
    return names


def _find_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and the videos and images in the folders. Raises PhenakiError for a missing path."""
    from phenaki.data.folder import Folder

    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise PhenakiError(f"there is no file or folder '{path}'")
        if path.is_dir():
            folder = Folder(path)
            files += [folder.path(index) for index in range(len(folder))]
        else:
            files.append(path)
    return files
