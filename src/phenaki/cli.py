"""The command line: `phenaki generate | demo | train | evaluate | models`.

Nothing here imports torch before a command runs, so that help and usage errors come at once.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from phenaki import __version__
from phenaki.errors import PhenakiError

DEFAULT_MODEL = "shapes-64"
DEMO = (
    "a large red circle moves to the right, on a navy background",
    "now it turns yellow",
    "now it moves up",
)
BAD_INPUT, INTERRUPTED = 2, 130
_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class _Commands(TyperGroup):
    """Ends a command that was given something it cannot work with by a sentence and an exit code, not a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PhenakiError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:  # `phenaki models | head`: for typer to end in silence
                raise
            _fail(f"{error.strerror or error}" + (f": '{error.filename}'" if error.filename else ""))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            _fail("this takes more memory than there is: make fewer samples at once, or train with smaller batches")
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)


def _fail(sentence: str, code: int = BAD_INPUT) -> NoReturn:
    print(f"phenaki: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    help="Text to video: generate videos, train such models, and judge them.",
    epilog="Each command explains itself: phenaki generate --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(
    help="Train a tokenizer on video, then a generator that writes its ids from text.", no_args_is_help=True
)
app.add_typer(train_app, name="train")


def main() -> None:
    # Read when torch is imported: beside another busy process, threads that spin while they wait slow it down many
    # times over; threads that sleep at once cost a third of the speed (docs/log.md). So they spin for a moment.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    app(prog_name="phenaki")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phenaki {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


# ---- text to video

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A model in the package (see `phenaki models`), a folder, or owner/name on Hugging Face."
    ),
]


@app.command()
def generate(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Where to write. The ending decides: .mp4, .gif, .webp (animated), .png (a contact sheet); "
            "no ending: a folder of numbered pictures.",
            show_default=False,
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT",
            help="What is to be seen. Several prompts are the scenes of one video, each going on from the last frames "
            "of the one before.",
            show_default=False,
        ),
    ] = None,
    story: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read the scenes from a text file, one prompt to a line; a number in brackets in front, as in "
            "'[21] now it turns blue', sets the frames of that scene. Empty lines and lines that begin with # are "
            "left out.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    frames: Annotated[
        int | None,
        typer.Option(
            help="Frames of each scene: 1 + 2k for a model whose time step is 2 frames. A scene that follows begins "
            "with the last frame of the one before, so it adds one less.",
            show_default="the length the model was trained on",
        ),
    ] = None,
    num: Annotated[int, typer.Option(min=1, max=64, help="Make so many videos of the same prompts, side by side.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same video on the same machine.")] = 0,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second at which the file is played.", show_default="the model's own"),
    ] = None,
    scale: Annotated[
        int, typer.Option(min=1, max=32, help="Write each pixel so many times as wide and as high; 1: as it is.")
    ] = 4,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Decoding steps for each clip. More take longer, and are not always better.",
            show_default="the model's own",
            rich_help_panel="Sampling",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="How strongly the text pulls: 1 follows it as trained, more holds to it more closely at the cost of "
            "variety.",
            show_default="the model's own",
            rich_help_panel="Sampling",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="How freely each token is drawn: 0 always takes the likeliest, 1 draws as the model says.",
            show_default="the model's own",
            rich_help_panel="Sampling",
        ),
    ] = None,
    choice_temperature: Annotated[
        float | None,
        typer.Option(
            help="How freely it is chosen which of the drawn tokens stay after a step: 0 keeps the surest.",
            show_default="the model's own",
            rich_help_panel="Sampling",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Draw each token from the k likeliest only; 0: from all.",
            show_default="the model's own",
            rich_help_panel="Sampling",
        ),
    ] = None,
) -> None:
    """Make a video from a prompt, or a story from several.

    phenaki generate "a small blue star spins" -o star.mp4

    phenaki generate "a red circle moves up" "now it turns yellow" --seed 3 -o story.gif
    """
    if bool(prompts) == bool(story):
        raise PhenakiError("give either prompts or --story FILE")
    lengths: list[int | None]
    prompts, lengths = read_story(story) if story else (prompts, [None] * len(prompts))

    import torch

    from phenaki.pipeline import Phenaki, laid_out, step_bar
    from phenaki.video import open_writer

    loaded = Phenaki.from_pretrained(model)
    usual = loaded.generator.config.frames if frames is None else frames
    rate = loaded.fps if fps is None else fps
    height, width = laid_out(torch.zeros(num, 3, 1, *loaded.image_size), scale).shape[1:3]
    started = time.monotonic()
    with step_bar() as on_step, open_writer(out, rate, (height, width)) as writer:
        pieces = loaded.stream(
            prompts,
            frames=[usual if length is None else length for length in lengths],
            seed=seed,
            samples=num,
            on_step=on_step,
            steps=steps,
            guidance=guidance,
            temperature=temperature,
            choice_temperature=choice_temperature,
            top_k=top_k,
        )
        for piece in pieces:
            writer.add(laid_out(piece, scale))
    seconds = time.monotonic() - started
    print(
        f"{out}: {writer.frames} frames of {width}x{height} at {rate:g} per second, seed {seed}; "
        f"made in {seconds:.1f} s, {writer.frames / seconds:.1f} frames per second"
    )


def read_story(path: Path) -> tuple[list[str], list[int | None]]:
    """Prompts and frames (None: not said) of the scenes in a text file, one to a line.

    Raises PhenakiError, with the line, for a length that is no number, and for a file without a scene.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise PhenakiError(f"there is no story file '{path}'") from error
    except IsADirectoryError as error:
        raise PhenakiError(f"the story '{path}' is a folder: give a text file") from error
    except UnicodeDecodeError as error:
        raise PhenakiError(f"the story '{path}' is no text file in UTF-8: {error}") from error
    prompts, lengths = [], []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        length, prompt = re.fullmatch(r"(?:\[([^]]*)\])?\s*(.*)", line).groups()
        if not prompt or (length is not None and not re.fullmatch(r"[0-9]{1,9}", length.strip())):
            raise PhenakiError(
                f"'{path}', line {number}: '{line[:60]}' is no scene; write a prompt, with its frames in brackets in "
                "front where they are not the usual ones, as in '[21] now it turns blue'"
            )
        prompts.append(prompt)
        lengths.append(None if length is None else int(length))
    if not prompts:
        raise PhenakiError(f"the story '{path}' has no scenes: write one prompt to a line")
    return prompts, lengths


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to; it is made if it is not there.")] = Path(
        "out/demo"
    ),
) -> None:
    """Watch a text become a video: three scenes from three prompts, made with the model in the package."""
    began = time.monotonic()
    for number, prompt in enumerate(DEMO, start=1):
        print(f"scene {number}: {prompt}", flush=True)

    from phenaki.files import writing
    from phenaki.pipeline import Phenaki
    from phenaki.video import contact_sheet, upscale, write_image

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    model = Phenaki.from_pretrained(DEFAULT_MODEL)
    started = time.monotonic()
    result = model.generate(DEMO, progress=True)
    made, count = time.monotonic() - started, result.video.shape[2]

    video, animation, sheet = out / "demo.mp4", out / "demo.gif", out / "demo.png"
    result.save(video, upscale=4)
    result.save(animation, upscale=4)
    ends = (*result.scenes[1:], count)
    scenes = [upscale(result.clips[0, i:j], 2) for i, j in zip(result.scenes, ends, strict=True)]
    write_image(sheet, contact_sheet(scenes, frames=8, labels=DEMO))
    print(f"{count} frames made in {made:.1f} s, {count / made:.1f} frames per second; ", end="")
    print(f"{time.monotonic() - began:.1f} s with imports, loading and writing")
    print(f"video          {video}\nanimation      {animation}\ncontact sheet  {sheet}")


@app.command()
def models() -> None:
    """List the models in the package."""
    from phenaki import hub

    if not hub.model_names():
        print("There are no models in this package.")
    for name in hub.model_names():
        folder = hub.MODELS / name
        _, generator = hub.read_config(folder / "generator")
        facts = generator["tokenizer"]
        height, width = facts["image_size"]
        megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        print(
            f"{name}: {width}x{height} pixels, {facts['fps']:g} frames per second, "
            f"scenes of {generator['frames']} frames, {megabytes:.1f} MB"
        )


# ---- training

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="Name of a complete configuration in phenaki.recipes; an unknown name lists those there are.",
        show_default=False,
    ),
]
RunFolderOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="The run's folder: checkpoints, metrics, pictures and the trained weights. If a run of the same recipe "
        "was stopped there, it goes on.",
        show_default=False,
    ),
]
ChangesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe, such as run.steps=2000 optimizer.lr=1e-3.",
        show_default=False,
    ),
]


@train_app.command("tokenizer")
def train_tokenizer(recipe: RecipeOption, out: RunFolderOption, changes: ChangesArgument = None) -> None:
    """Train a tokenizer (first stage): video to a small grid of ids, and back.

    phenaki train tokenizer --recipe cvivit_shapes_64 --out runs/out/tokenizer run.steps=2000

    Ctrl-C saves and stops; the same command goes on from there. Several processes: torchrun --nproc-per-node 2 -m
    phenaki train tokenizer ...
    """
    from phenaki import recipes
    from phenaki.config import override
    from phenaki.train.tokenizer import train_tokenizer

    configured = override(recipes.recipe(recipe, recipes.TOKENIZER_RECIPES), changes or [])
    _check_run_folder(out)
    _say_trained("tokenizer", train_tokenizer(configured, out))


@train_app.command("generator")
def train_generator(
    recipe: RecipeOption,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="The trained tokenizer whose ids the generator is to write: its folder, or a whole model's.",
            show_default=False,
        ),
    ],
    out: RunFolderOption,
    changes: ChangesArgument = None,
) -> None:
    """Train a generator (second stage) that writes a tokenizer's ids from text, and its text encoder.

    phenaki train generator --recipe masked_shapes_64 --tokenizer runs/out/tokenizer/tokenizer --out runs/out/generator

    Ctrl-C saves and stops; the same command goes on from there. Several processes: torchrun --nproc-per-node 2 -m
    phenaki train generator ...
    """
    from phenaki import recipes
    from phenaki.config import override
    from phenaki.pipeline import Phenaki, load
    from phenaki.tokenizer import Tokenizer
    from phenaki.train.generator import train_generator

    configured = override(recipes.recipe(recipe, recipes.GENERATOR_RECIPES), changes or [])
    _check_run_folder(out)
    found = load(tokenizer, device="cpu")  # the run moves it to the device of its process
    first_stage = found.tokenizer if isinstance(found, Phenaki) else found
    if not isinstance(first_stage, Tokenizer):
        raise PhenakiError(f"'{tokenizer}' holds a {type(found).__name__}: name the folder of a tokenizer")
    _say_trained("model", train_generator(configured, out, first_stage))


def _check_run_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise PhenakiError(f"'{folder}' is a file: name a folder for the run")


def _say_trained(what: str, folder: Path) -> None:
    if int(os.environ.get("RANK", 0)) == 0 and folder.is_dir():
        print(f"The {what} of this run, as last written, is in {folder}")


# ---- judging


class What(StrEnum):
    reconstruction = "reconstruction"
    prompts = "prompts"
    stories = "stories"
    all = "all"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model in the package, a folder, or owner/name on Hugging Face.")],
    what: Annotated[
        What,
        typer.Option(
            help="reconstruction: how well the tokenizer gives unseen clips back. prompts: for how many unseen prompts "
            "all that the caption claims is to be seen. stories: the same for the scenes of stories."
        ),
    ] = What.all,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the figures, with protocol, seed and commit, as JSON.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the samples: a first look in minutes.")] = False,
) -> None:
    """Judge a model on the procedural world of shapes, where a checker says from the pixels alone what is to be seen.

    phenaki evaluate shapes-64 --out figures.json
    """
    from rich.console import Console

    from phenaki.evaluate import WHAT, evaluate, report, write_figures
    from phenaki.pipeline import load
    from phenaki.tokenizer import Tokenizer

    loaded = load(model)
    parts: tuple[str, ...] = (what.value,)
    if what is What.all:
        parts = ("reconstruction",) if isinstance(loaded, Tokenizer) else WHAT
    if out is not None:
        write_figures(out, {})  # a place that cannot be written is told before the work
    for part in parts:  # each is written as it is done, so that Ctrl-C loses no more than one
        figures = evaluate(loaded, what=(part,), quick=quick)
        Console().print(report(figures))
        for sentence in write_figures(out, figures) if out is not None else ():
            print(f"phenaki: {sentence}", file=sys.stderr)
