"""Data for training: `phenaki data pack`, `inspect`, `tokenize` and `record`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.inputs import read_size
from phenaki.core.errors import PhenakiError

data_app = typer.Typer(
    help="Make training data of videos and pictures: pack them into shards, look at them, turn them into tokens.",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")
record_app = typer.Typer(help="Record a simulator: video with actions, timed captions and poses.", no_args_is_help=True)
data_app.add_typer(record_app, name="record")

OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="A folder, which is made, or s3://bucket/folder.")]


@data_app.command()
def pack(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE... OUT", help="Folders of videos and pictures, and where to write.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Write there, for example to s3://bucket/folder; all arguments are sources."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Captions or labels of the files: CSV, TSV, JSON-lines or Parquet. Else captions.csv (or .tsv, "
            ".jsonl, .parquet) in a source is taken, else the .txt file beside each media file.",
            rich_help_panel="Captions",
        ),
    ] = None,
    path_column: Annotated[
        str, typer.Option(help="The table's column of file names.", rich_help_panel="Captions")
    ] = "",
    caption_column: Annotated[
        str, typer.Option(help="The table's column of captions.", rich_help_panel="Captions")
    ] = "",
    label_column: Annotated[str, typer.Option(help="The table's column of labels.", rich_help_panel="Captions")] = "",
    label_from_folder: Annotated[
        bool,
        typer.Option(
            "--label-from-folder",
            help="Take the name of the folder that a file lies in as its label.",
            rich_help_panel="Captions",
        ),
    ] = False,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A caption for files that have a label, such as 'a video of {label}'. Repeat it for several; one is "
            "drawn each time a sample is used.",
            rich_help_panel="Captions",
        ),
    ] = None,
    fps: Annotated[
        float,
        typer.Option(help="Encode anew at so many frames per second.", rich_help_panel="Clips", show_default=False),
    ] = 0.0,
    size: Annotated[
        int,
        typer.Option(help="Encode anew with this short side, in pixels.", rich_help_panel="Clips", show_default=False),
    ] = 0,
    seconds: Annotated[
        float, typer.Option(help="Cut into clips of so many seconds.", rich_help_panel="Clips", show_default=False)
    ] = 0.0,
    shots: Annotated[
        bool,
        typer.Option("--shots", help="Split at hard cuts, so that a clip shows one scene.", rich_help_panel="Clips"),
    ] = False,
    validation: Annotated[
        float, typer.Option(help="Share of the sources, never parts of one, that is kept back from training.")
    ] = 0.05,
    processes: Annotated[
        int, typer.Option(help="Processes that are at work at once.", show_default="one for each core")
    ] = 0,
) -> None:
    """Pack a tree of videos and pictures into tar shards (WebDataset's format) for training.

    phenaki data pack my/videos my/shards --label-from-folder --template "a video of {label}"

    phenaki data pack movies clips --fps 8 --size 128 --seconds 4 --shots

    Stopped, the same command goes on behind its last whole shard (10,000 samples or 256 MB; a smaller set is one, and
    begins anew). Train on it with: phenaki train tokenizer --data my/shards ...
    """
    from phenaki.data.captions import Columns
    from phenaki.data.cuts import Cutting
    from phenaki.data.packing import PackConfig, pack

    if to is None and len(sources) < 2:
        raise PhenakiError(f"name the sources and then where to write: phenaki data pack {sources[0]} OUT")
    *sources, out = (*sources, to) if to is not None else sources
    config = PackConfig(
        sources=tuple(map(Path, sources)),
        out=out,
        table=table,
        columns=Columns(path_column, caption_column, label_column),
        label_from_folder=label_from_folder,
        templates=tuple(template or ()),
        cutting=Cutting(fps, size, seconds, shots),
        validation=validation,
        processes=processes,
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # to tidy up as at Ctrl-C
    try:
        report = pack(config)
    finally:
        signal.signal(signal.SIGTERM, before)
    print("\n".join(report.lines()))
    if validation and not report.validation.samples:
        print(
            f"--validation {validation:g} of so few sources kept none back: a training will be judged by clips that it "
            "trains on. Pack with a larger share into another folder, or give the training others (data.validation)"
        )


@data_app.command()
def inspect(
    uri: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a packed data set, or tar shards anywhere.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for clips.png, histograms.png and summary.json.")
    ] = Path("out/inspect"),
    samples: Annotated[int, typer.Option(min=1, help="How many samples to look at, drawn at random.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds draw other samples.")] = 0,
) -> None:
    """Look at a data set: how many, how long, how large, what the captions say, and pictures of it.

    phenaki data inspect my/shards
    """
    import phenaki.worlds.shapes  # noqa: F401, registers "shapes"
    from phenaki.data.inspecting import inspect_data

    print("\n".join(inspect_data(uri, out, samples, seed).lines()))
    print(f"pictures and figures are in {out}")


@data_app.command()
def tokenize(
    uri: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder, a packed data set, tar shards anywhere, or 'shapes'.")
    ],
    out: OutArgument,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer", "-t", help="A tokenizer's folder, or a whole model's name or folder.", show_default=False
        ),
    ],
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Also write this text encoder's embeddings of the captions: a T5 or CLIP by its folder or its name on "
            "the Hugging Face hub, or the folder of a text encoder or of a whole model.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="A caption for samples that have a label: 'a video of {label}'.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a packed data set and of shapes: train or validation.")] = "train",
    frames: Annotated[int, typer.Option(help="Frames of each clip: 1 + 2k for a time step of 2.")] = 11,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the clips, in pixels.", show_default="the tokenizer's")
    ] = None,
    passes: Annotated[
        int,
        typer.Option(
            help="Write each sample so often, from random places in time and with random crops; once: the middle."
        ),
    ] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the clips of several passes.")] = False,
    samples: Annotated[int, typer.Option(help="How many samples to write.", show_default="all")] = 0,
    batch: Annotated[int, typer.Option(help="Clips that are encoded at once.")] = 16,
    seed: Annotated[int, typer.Option(help="Decides the random places, crops and captions.")] = 0,
    max_bad_fraction: Annotated[
        float,
        typer.Option(help="Stop above this share of samples that cannot be used: from 100 samples on, and at the end."),
    ] = 0.1,
) -> None:
    """Write the tokens of a data set, so that the generator trains without the tokenizer in memory, and much faster.

    phenaki data tokenize my/shards my/tokens --tokenizer runs/out/tokenizer/tokenizer

    phenaki train generator --data my/tokens ...

    Stopped, the same command goes on behind its last whole shard (1,024 samples). Several processes: torchrun
    --nproc-per-node 2 -m phenaki data tokenize ...
    """
    from collections import deque

    import phenaki.worlds.shapes  # noqa: F401, registers "shapes"
    from phenaki.core.config import from_dict
    from phenaki.core.precision import best_device
    from phenaki.core.progress import progress_bar
    from phenaki.data.config import SourceConfig
    from phenaki.data.tokenizing import TokenizeConfig, tokenize
    from phenaki.pipeline import load_part, load_text_encoder

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    settings = {"split": split, "frames": frames, "passes": passes, "flip": flip}
    settings |= {"samples": samples, "batch": batch, "seed": seed, "max_bad_fraction": max_bad_fraction}
    source = SourceConfig(uri, size=read_size(size) if size else 0, templates=tuple(template or ()))
    config = from_dict(TokenizeConfig, {"source": source, **settings})
    device = best_device()
    first_stage = load_part(tokenizer, "tokenizer").to(device)
    reader = load_text_encoder(text_encoder).to(device) if text_encoder else None
    skipped: deque[str] = deque(maxlen=20)
    with progress_bar(visible=rank == 0, transient=True) as bar:
        task = bar.add_task("tokens of samples", total=None)

        def advance(written: int) -> None:
            bar.update(task, completed=written)

        done = tokenize(config, out, first_stage, reader, rank, world_size, advance, skipped.append)
    for sentence in skipped:
        print(f"skipped: {sentence}")
    named = ", all of them named in its .bad.txt files" if done.bad else ""
    print(f"{done.written:,} samples in {done.shards} shards at {out}; {done.bad:,} skipped{named}")
    if done.stills:
        print(f"{done.stills:,} still pictures passed over: clips of {frames} frames are wanted (--frames)")


@record_app.command()
def doom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, which is made; each split is a folder in it.")],
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="A scenario; repeat it for several.", show_default="the eight small ones"),
    ] = None,
    unseen_scenario: Annotated[
        list[str] | None, typer.Option(help="A scenario of the split unseen_maps; repeat it for several.")
    ] = None,
    train: Annotated[float, typer.Option(help="Minutes of play to train on.")] = 60.0,
    new_starts: Annotated[float, typer.Option(help="Minutes of other episodes of the same scenarios.")] = 6.0,
    unseen_maps: Annotated[float, typer.Option(help="Minutes of the unseen scenarios.")] = 0.0,
    shortest: Annotated[float, typer.Option(help="Seconds of the shortest episode.")] = 10.0,
    longest: Annotated[float, typer.Option(help="Seconds of the longest episode.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Other seeds play other episodes.")] = 0,
) -> None:
    """Record scripted play of Doom's scenarios, and of Freedoom's levels map01 to map32 (extra: doom).

    phenaki data record doom my/doom --scenario maze --scenario map01 --unseen-scenario map05 --unseen-maps 5

    Interrupted, the same command resumes with the first missing episode; more minutes add episodes.
    """
    from phenaki.worlds.doom import SMALL, RecordingConfig, record_doom

    config = RecordingConfig(
        out=out,
        scenarios=tuple(scenario or SMALL),
        unseen_scenarios=tuple(unseen_scenario or ()),
        train=train,
        new_starts=new_starts,
        unseen_maps=unseen_maps,
        seconds=(shortest, longest),
        seed=seed,
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end the engine's process, as Ctrl-C does
    try:
        report = record_doom(config)
    finally:
        signal.signal(signal.SIGTERM, before)
    print("\n".join(report.lines()))
