"""Training data: `phenaki data pack`, `inspect`, `tokenize` and `record`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from phenaki.cli.app import app
from phenaki.cli.help import App
from phenaki.cli.inputs import read_size
from phenaki.core.errors import PhenakiError

data_app = App(help="Pack videos into shards, inspect datasets, precompute tokens, record simulators.")
app.add_typer(data_app, name="data", rich_help_panel="Train")
record_app = App(help="Record a simulator: video with actions, timed captions and poses.")
data_app.add_typer(record_app, name="record")


def _clips(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help, show_default=False, rich_help_panel="Clips")


ColumnOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Name of this column in --table.", show_default="found by name", rich_help_panel="Captions"
    ),
]
EngineOption = Annotated[
    str, typer.Option(metavar="local|ray", help="Work on this machine, or on a Ray cluster (extra: ray).")
]
AddressOption = Annotated[
    str,
    typer.Option(metavar="HOST:PORT", help="The Ray cluster.", show_default="RAY_ADDRESS, else one on this machine"),
]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="Output folder, or s3://bucket/folder.")]


@data_app.command()
def pack(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... OUT", help="Folders of media, at s3:// with a table, then the output folder."
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Output folder or s3://bucket/folder; all arguments are then sources.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Captions or labels: CSV, TSV, JSON lines or Parquet. Default: captions.csv (.tsv, .jsonl, .parquet) "
            "in a source, else a .txt file next to each media file.",
            show_default=False,
            rich_help_panel="Captions",
        ),
    ] = None,
    path_column: ColumnOption = "",
    caption_column: ColumnOption = "",
    label_column: ColumnOption = "",
    label_from_folder: Annotated[
        bool,
        typer.Option(
            "--label-from-folder",
            help="Label each file with the name of its folder.",
            rich_help_panel="Captions",
        ),
    ] = False,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Caption for files with a label, such as 'a video of {label}'. Repeat it for several, one of which "
            "is sampled per use.",
            show_default=False,
            rich_help_panel="Captions",
        ),
    ] = None,
    fps: Annotated[float, _clips("FPS", "Re-encode at this frame rate.")] = 0.0,
    size: Annotated[int, _clips("N", "Re-encode with this short side in pixels.")] = 0,
    seconds: Annotated[float, _clips("X", "Cut into clips of this length in seconds.")] = 0.0,
    shots: Annotated[
        bool,
        typer.Option("--shots", help="Split at hard cuts, so that each clip is one shot.", rich_help_panel="Clips"),
    ] = False,
    layout: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="LAYOUT",
            help="How the sources are published: folder, lerobot, ucf101, kinetics or something (Something-Something).",
        ),
    ] = "folder",
    camera: Annotated[
        str, typer.Option(metavar="KEY", help="Camera of LeRobot data.", show_default="the only one")
    ] = "",
    states: Annotated[bool, typer.Option("--states", help="Take the states of a robot as actions, too.")] = False,
    validation: Annotated[
        float, typer.Option(metavar="X", help="Fraction of the source files held out for validation.")
    ] = 0.05,
    processes: Annotated[
        int, typer.Option(metavar="N", help="Number of worker processes.", show_default="one per core")
    ] = 0,
    engine: EngineOption = "local",
    address: AddressOption = "",
) -> None:
    """Pack folders of videos and pictures into tar shards (WebDataset format).

    phenaki data pack my/videos my/shards --label-from-folder --template "a video of {label}"

    phenaki data pack movies clips --fps 8 --size 128 --seconds 4 --shots

    phenaki data pack --from lerobot my/robot my/shards --camera observation.images.top

    If interrupted, the same command resumes after the last complete shard (10,000 samples or 256 MB). To train on it:

    phenaki train tokenizer --data my/shards ...
    """
    from phenaki.data.cuts import Cutting
    from phenaki.data.packing import PackConfig, pack
    from phenaki.data.storage import is_remote
    from phenaki.data.table_rows import Columns

    if to is None and len(sources) < 2:
        raise PhenakiError(f"give the sources, then the output folder: phenaki data pack {sources[0]} OUT")
    *sources, out = (*sources, to) if to is not None else sources
    config = PackConfig(
        sources=tuple(source if is_remote(source) else Path(source) for source in sources),
        out=out,
        table=table,
        columns=Columns(path_column, caption_column, label_column),
        label_from_folder=label_from_folder,
        templates=tuple(template or ()),
        cutting=Cutting(fps, size, seconds, shots),
        validation=validation,
        processes=processes,
        engine=engine,
        address=address,
        layout=layout,
        camera=camera,
        states=states,
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # to clean up as after Ctrl-C
    try:
        report = pack(config)
    finally:
        signal.signal(signal.SIGTERM, before)
    print("\n".join(report.lines()))
    if validation and not report.validation.samples:
        print(
            f"--validation {validation:g} of so few sources holds out none: a run would be evaluated on clips that it "
            "trains on. Pack with a larger fraction into another folder, or set data.validation when training"
        )


@data_app.command()
def inspect(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A folder, a packed dataset, or tar shards.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for pictures and summary.json."),
    ] = Path("out/inspect"),
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Number of random samples to read.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Random seed of the selection.")] = 0,
) -> None:
    """Summarize a dataset: counts, durations, sizes, captions, sample pictures.

    phenaki data inspect my/shards
    """
    import phenaki.worlds.shapes  # noqa: F401, registers "shapes"
    from phenaki.data.inspecting import inspect_data

    print("\n".join(inspect_data(uri, out, samples, seed).lines()))
    print(f"pictures and statistics written to {out}")


@data_app.command()
def tokenize(
    uri: Annotated[
        str,
        typer.Argument(metavar="URI", help="A folder, a packed dataset, tar shards, or 'shapes' (procedural)."),
    ],
    out: OutArgument,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            "-t",
            metavar="MODEL",
            help="Folder of a tokenizer, or name or folder of a complete model.",
            show_default=False,
        ),
    ],
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Also write caption embeddings of this text encoder: T5 or CLIP by folder or Hugging Face Hub name, "
            "or the folder of a text encoder or a complete model.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Caption for samples with a label: 'a video of {label}'.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="train|validation", help="Split of a packed dataset or shapes.")
    ] = "train",
    frames: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Frames per clip: 1 + 2k for shapes-64. 0: whole recordings, from which training takes windows.",
        ),
    ] = 11,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of the clips in pixels.", show_default="the tokenizer's")
    ] = None,
    passes: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Write each sample N times, with random start times and crops; 1: centered.",
        ),
    ] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the clips; needs --passes 2 or more.")] = False,
    samples: Annotated[int, typer.Option(metavar="N", help="Number of samples to write.", show_default="all")] = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Clips encoded at once.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of start times, crops and captions.")] = 0,
    max_bad_fraction: Annotated[
        float,
        typer.Option(metavar="X", help="Fail if more than this fraction of the samples is unusable."),
    ] = 0.1,
    engine: EngineOption = "local",
    address: AddressOption = "",
    units: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Parts of the samples that workers of the cluster take, each in its own shards.",
            show_default="four per GPU or core",
        ),
    ] = 0,
) -> None:
    """Precompute the tokens of a dataset, so that generators train much faster, without the tokenizer in memory.

    phenaki data tokenize my/shards my/tokens --tokenizer runs/out/tokenizer/tokenizer

    phenaki train generator --data my/tokens ...

    If interrupted, the same command resumes after the last complete shard (1,024 samples). On several GPUs:

    torchrun --nproc-per-node 2 -m phenaki data tokenize ...

    or, where machines come and go, on a Ray cluster:

    phenaki data tokenize s3://bucket/shards s3://bucket/tokens --tokenizer shapes-64 --engine ray
    """
    from collections import deque

    from phenaki.data.engines import check_engine, open_engine

    check_engine(engine, address)
    if units and engine == "local":
        raise PhenakiError(f"--units {units} are of a Ray cluster: add --engine ray")

    import torch

    import phenaki.worlds.shapes  # noqa: F401, registers "shapes"
    from phenaki.core.config import from_dict
    from phenaki.core.precision import best_device
    from phenaki.core.progress import progress_bar
    from phenaki.data.config import SourceConfig
    from phenaki.data.tokenizing import TokenizeConfig, tokenize
    from phenaki.data.tokenizing_units import tokenize_on
    from phenaki.pipeline import load_part, load_text_encoder

    settings = {"split": split, "frames": frames, "passes": passes, "flip": flip}
    settings |= {"samples": samples, "batch": batch, "seed": seed, "max_bad_fraction": max_bad_fraction}
    source = SourceConfig(uri, size=read_size(size) if size else 0, templates=tuple(template or ()))
    config = from_dict(TokenizeConfig, {"source": source, **settings})
    device = best_device() if engine == "local" else torch.device("cpu")
    first_stage = load_part(tokenizer, "tokenizer").to(device)
    reader = load_text_encoder(text_encoder).to(device) if text_encoder else None
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    skipped: deque[str] = deque(maxlen=20)
    with progress_bar(visible=rank == 0, transient=True) as bar:
        task = bar.add_task("tokens of samples", total=None)

        def advance(written: int) -> None:
            bar.update(task, completed=written)

        if engine == "local":
            done = tokenize(config, out, first_stage, reader, rank, world_size, advance, skipped.append)
        else:
            with open_engine(engine, address) as cluster:
                done = tokenize_on(
                    cluster, config, out, first_stage, reader, units, on_written=advance, on_bad=skipped.append
                )
    for sentence in skipped:
        print(f"skipped: {sentence}")
    listed = ", listed in its .bad.txt files" if done.bad else ""
    print(f"{done.written:,} samples in {done.shards} shards at {out}; {done.bad:,} skipped{listed}")
    if done.stills:
        needed = f"clips need {frames} frames" if frames else "videos are needed"
        print(f"{done.stills:,} still pictures skipped: {needed} (--frames)")


@record_app.command()
def doom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder; each split is a folder in it.")],
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Scenario to play; repeat it for several.", show_default="eight small ones"),
    ] = None,
    unseen_scenario: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Scenario of the split unseen_maps; repeat it for several.")
    ] = None,
    train: Annotated[float, typer.Option(metavar="X", help="Minutes of training data.")] = 60.0,
    new_starts: Annotated[
        float, typer.Option(metavar="X", help="Minutes of other episodes of the same scenarios.")
    ] = 6.0,
    unseen_maps: Annotated[float, typer.Option(metavar="X", help="Minutes of the unseen scenarios.")] = 0.0,
    shortest: Annotated[float, typer.Option(metavar="X", help="Shortest episode in seconds.")] = 10.0,
    longest: Annotated[float, typer.Option(metavar="X", help="Longest episode in seconds.")] = 60.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the episodes.")] = 0,
) -> None:
    """Record scripted play of Doom's scenarios, and of Freedoom's levels map01 to map32 (extra: doom).

    phenaki data record doom my/doom --scenario maze --scenario map01 --unseen-scenario map05 --unseen-maps 5

    If interrupted, the same command resumes with the first missing episode. More minutes add episodes.
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
