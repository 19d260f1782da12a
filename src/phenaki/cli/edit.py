"""Videos from pictures and clips: `phenaki extend`, `interpolate` and `inpaint`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.job import Job
from phenaki.cli.options import FirstFrameStepsOption, FramesOption, SamplingArgs, VideoArgs, flatten_args

MEDIA = "a video, animation or picture. It is resized, cropped and resampled to the model's frame size and rate."


@app.command(rich_help_panel="Generate")
@flatten_args
def extend(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help=f"What to continue: {MEDIA}", show_default=False)],
    prompts: Annotated[
        list[str],
        typer.Argument(metavar="PROMPT", help="What happens next, one prompt per scene.", show_default=False),
    ],
    *,
    video: VideoArgs,
    frames: FramesOption = None,
    sampling: SamplingArgs,
) -> None:
    """Continue a clip. The output is the clip, followed by the scenes of the prompts.

    phenaki extend circle.mp4 "now it turns yellow" "now it moves up" -o longer.mp4
    """
    Job("extend", tuple(prompts), video, frames, {"clip": clip}, asdict(sampling)).make()


@app.command(rich_help_panel="Generate")
@flatten_args
def interpolate(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help=f"The beginning: {MEDIA}", show_default=False)],
    last: Annotated[Path, typer.Argument(metavar="LAST", help="The end: the same kinds of file.", show_default=False)],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens between them.", show_default=False)],
    *,
    video: VideoArgs,
    frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Frames of the generated clip, including those of FIRST and LAST that it is conditioned on: 1 + 2k "
            "for shapes-64.",
            show_default="the model's clip length, which is the maximum",
        ),
    ] = None,
    sampling: SamplingArgs,
) -> None:
    """Generate what happens between two pictures or clips. The output begins with the first and ends with the last.

    phenaki interpolate left.png right.png "a red circle moves to the right" -o between.mp4
    """
    Job("interpolate", (prompt,), video, frames, {"first": first, "last": last}, asdict(sampling)).make()


@app.command(rich_help_panel="Generate")
@flatten_args
def inpaint(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help=f"What to edit: {MEDIA}", show_default=False)],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the whole result shows.", show_default=False)],
    *,
    mask: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A picture, or a video of as many frames, of the clip's size. White is regenerated, black is kept; it "
            "grows to whole patches of the model.",
            show_default=False,
        ),
    ],
    video: VideoArgs,
    blend: Annotated[
        bool,
        typer.Option("--blend", help="Copy the kept pixels from the clip, rather than reconstruct them."),
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Use the first N frames of the clip: 1 + 2k for shapes-64.",
            show_default="all",
        ),
    ] = None,
    sampling: SamplingArgs,
    first_frame_steps: FirstFrameStepsOption = None,
) -> None:
    """Regenerate a part of a clip: the white area of a mask.

    phenaki inpaint circle.mp4 "a large blue star moves to the right" --mask mask.png -o star.mp4
    """
    options = asdict(sampling) | {"first_frame_steps": first_frame_steps}
    Job("inpaint", (prompt,), video, frames, {"clip": clip, "mask": mask}, options, blend).make()
