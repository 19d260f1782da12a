"""Videos through a tokenizer and back: `phenaki reconstruct`."""

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


@app.command()
def reconstruct(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Videos and pictures, or folders of them.")],
    model: ModelOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write to; it is made if it is not there.")
    ] = Path("out/reconstruct"),
    frames: Annotated[
        int, typer.Option(min=1, help="Frames of the clip in the middle of each video: 1 + 2k for a time step of 2.")
    ] = 11,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Take each video whole, whatever its length, at the model's rate.")
    ] = False,
    lpips: LpipsOption = None,
) -> None:
    """Encode and decode videos, and compare: side-by-side videos, contact sheets and metrics.

    phenaki reconstruct my/clip.mp4 --model my/model -o out

    Writes NAME.mp4 (original left, reconstruction right) and NAME.png (originals above) for each, and metrics.json.
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
        raise PhenakiError(f"'{out}' is a file: name a folder to write to with --out")
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
        print(f"videos, sheets and metrics.json are in {out}")
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
