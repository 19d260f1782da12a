"""Steering a video by pictures and clips: `phenaki extend`, `interpolate` and `inpaint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.generate import (
    DEFAULT_MODEL,
    FpsOption,
    GuidanceOption,
    ModelOption,
    OrderOption,
    OutOption,
    PrimeFramesOption,
    SamplesOption,
    SeedOption,
    SizeOption,
    StepsOption,
    TemperatureOption,
    UpscaleOption,
    sampling_options,
)
from phenaki.cli.inputs import read_clip, read_mask, read_size
from phenaki.cli.output import Output
from phenaki.core.errors import PhenakiError

VIDEO = "a video, an animation or a picture; it is fitted to the model's size and rate, which is said."


@app.command()
def extend(
    video: Annotated[Path, typer.Argument(help=f"What to go on from: {VIDEO}", show_default=False)],
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT...",
            help="What is to be seen next; several are scenes, one after the other.",
            show_default=False,
        ),
    ],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    frames: Annotated[
        int | None,
        typer.Option(
            help="Frames of each scene: 1 + 2k for a time step of 2 frames. It begins with the last frame before it, "
            "so it adds one less.",
            show_default="the length the model was trained on",
        ),
    ] = None,
    size: SizeOption = None,
    prime_frames: PrimeFramesOption = None,
    samples: SamplesOption = 1,
    seed: SeedOption = 0,
    fps: FpsOption = None,
    upscale: UpscaleOption = 4,
    steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    temperature: TemperatureOption = None,
    order: OrderOption = None,
) -> None:
    """Go on from a clip's last frames: what is written is the clip, and then what the prompts say.

    phenaki extend circle.mp4 "now it turns yellow" "now it moves up" -o longer.mp4
    """
    from phenaki.pipeline import Phenaki, step_bar

    loaded = Phenaki.from_pretrained(model)
    pixels = read_size(size) if size else loaded.image_size
    output = Output(out, loaded, pixels, samples, upscale, fps, seed)
    start = read_clip(video, pixels, loaded.fps)
    sampling = sampling_options(prime_frames, steps, guidance_scale, temperature, order)
    with step_bar() as on_step, output.writing() as add:
        options = {"frames": frames, "seed": seed, "samples": samples, "on_step": on_step}
        for piece in loaded.stream(prompts, start=start, **options, **sampling):
            add(piece)


@app.command()
def interpolate(
    first: Annotated[Path, typer.Argument(help=f"What to begin with: {VIDEO}", show_default=False)],
    last: Annotated[Path, typer.Argument(help=f"What to end with: {VIDEO}", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="What is to be seen between them.", show_default=False)],
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    frames: Annotated[
        int | None,
        typer.Option(
            help="Frames from the first known one to the last: 1 + 2k for a time step of 2 frames.",
            show_default="the length the model was trained on, which is the most",
        ),
    ] = None,
    size: SizeOption = None,
    prime_frames: PrimeFramesOption = None,
    samples: SamplesOption = 1,
    seed: SeedOption = 0,
    fps: FpsOption = None,
    upscale: UpscaleOption = 4,
    steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    temperature: TemperatureOption = None,
    order: OrderOption = None,
) -> None:
    """Lead from one picture or clip to another: what is written is the one, what is made between, and the other.

    phenaki interpolate left.png right.png "a red circle moves to the right" -o between.mp4
    """
    from phenaki.pipeline import Phenaki

    loaded = Phenaki.from_pretrained(model)
    pixels = read_size(size) if size else loaded.image_size
    output = Output(out, loaded, pixels, samples, upscale, fps, seed)
    ends = [read_clip(end, pixels, loaded.fps) for end in (first, last)]
    sampling = sampling_options(prime_frames, steps, guidance_scale, temperature, order)
    options = {"frames": frames, "seed": seed, "samples": samples, "progress": True}
    with output.writing() as add:
        add(loaded.interpolate(*ends, prompt, **options, **sampling).video)


@app.command()
def inpaint(
    video: Annotated[Path, typer.Argument(help=f"What is to be changed: {VIDEO}", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="What is to be seen in the whole of it.", show_default=False)],
    mask: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A picture, or a video of as many frames, of the video's size: white is made anew, black is kept. It "
            "grows to whole patches of the model.",
            show_default=False,
        ),
    ],
    out: OutOption,
    blend: Annotated[
        bool,
        typer.Option(
            "--blend", help="Give back what is kept pixel for pixel, and not as the model's tokenizer draws it again."
        ),
    ] = False,
    model: ModelOption = DEFAULT_MODEL,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take so many frames from the beginning: 1 + 2k for a time step of 2 frames.",
            show_default="all, which must be so many",
        ),
    ] = None,
    size: SizeOption = None,
    prime_frames: PrimeFramesOption = None,
    samples: SamplesOption = 1,
    seed: SeedOption = 0,
    fps: FpsOption = None,
    upscale: UpscaleOption = 4,
    steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    temperature: TemperatureOption = None,
    order: OrderOption = None,
) -> None:
    """Make a part of a video anew: where the mask is white, what the prompt says.

    phenaki inpaint circle.mp4 "a large blue star moves to the right" --mask mask.png -o star.mp4
    """
    from phenaki.core.grid import floor_frames
    from phenaki.pipeline import Phenaki

    loaded = Phenaki.from_pretrained(model)
    pixels = read_size(size) if size else loaded.image_size
    output = Output(out, loaded, pixels, samples, upscale, fps, seed)
    clip, hole = read_clip(video, pixels, loaded.fps), read_mask(mask, video, pixels, loaded.fps)
    count, period = clip.shape[2], loaded.tokenizer.patch[0]
    fits = floor_frames(count, period)
    if frames is None and fits != count:
        raise PhenakiError(
            f"'{video}' has {count} frames, which are not 1 + {period}k: --frames {fits} leaves out the last"
        )
    if frames is not None and frames > count:
        raise PhenakiError(f"{frames} frames of '{video}', which has {count}: give at most {fits}")
    if len(hole) not in (1, count):
        raise PhenakiError(f"the mask '{mask}' has {len(hole)} frames, and '{video}' {count}: give one, or as many")
    sampling = sampling_options(prime_frames, steps, guidance_scale, temperature, order)
    options = {"blend": blend, "seed": seed, "samples": samples, "progress": True}
    with output.writing() as add:
        add(loaded.inpaint(clip[:, :, :frames], hole[:frames], prompt, **options, **sampling).video)
