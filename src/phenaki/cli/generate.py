"""Text to video: `phenaki generate`, `demo` and `models`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.errors import PhenakiError

DEFAULT_MODEL = "shapes-64"
DEMO = (
    "a large red circle moves to the right, on a navy background",
    "now it turns yellow",
    "now it moves up",
)

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
