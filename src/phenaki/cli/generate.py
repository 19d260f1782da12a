"""Text to video: `phenaki generate` and `demo`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.job import Job, replayed
from phenaki.cli.options import (
    DEFAULT_MODEL,
    FirstFrameStepsOption,
    FramesOption,
    SamplingArgs,
    VideoArgs,
    flatten_args,
)
from phenaki.cli.output import output_path
from phenaki.cli.replay import read_recording, write_replay
from phenaki.cli.story import write_story
from phenaki.core.errors import PhenakiError

DEMO = (
    "a large red circle moves to the right, on a navy background",
    "now it turns yellow",
    "now it moves up",
)


@app.command(rich_help_panel="Generate")
@flatten_args
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT",
            help="What the video shows. Several prompts are consecutive scenes of one video.",
            show_default=False,
        ),
    ] = None,
    *,
    video: VideoArgs,
    frames: FramesOption = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start from this picture, resized to the frame size.", show_default=False),
    ] = None,
    story: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read the prompts from a text file, or from standard input (-) as they arrive: one scene per line, "
            "optionally with settings, as in '\\[frames=21 prime_frames=5] now it turns blue'. Empty lines and lines "
            "that begin with # are skipped. While an mp4 is written it can be watched as NAME.part.mp4.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted --story, or start it; .mp4 only.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Make the video of this file again, as its metadata says; also one that was saved in `phenaki play`.",
            show_default=False,
        ),
    ] = None,
    sampling: SamplingArgs,
    first_frame_steps: FirstFrameStepsOption = None,
) -> None:
    """Generate a video from a prompt, or from several.

    phenaki generate "a small blue star spins"

    phenaki generate "a red circle moves up" "now it turns yellow" --seed 3 -o story.gif
    """
    options = asdict(sampling) | {"first_frame_steps": first_frame_steps}
    options = {name: value for name, value in options.items() if value is not None}
    if replay:
        if prompts or story or image or frames or resume or options:
            raise PhenakiError(f"--replay repeats what '{replay}' says: leave out prompts and settings")
        if (recording := read_recording(replay)) is None:
            replayed(replay, video).make()
        else:
            write_replay(replay, recording, video)
        return
    if not prompts and not story:
        raise PhenakiError(f'there is no prompt: say what the video shows, as in phenaki generate "{DEMO[0]}"')
    if prompts and story:
        raise PhenakiError("give either prompts or --story FILE")
    if resume and not (story and video.out and output_path(video.out, "").lower().endswith(".mp4")):
        raise PhenakiError("--resume continues a --story that is written to an .mp4: give --story FILE and -o NAME.mp4")
    inputs = {} if image is None else {"image": image}
    job = Job("generate", tuple(prompts or ()), video, frames, inputs, options)
    if story:
        write_story(story, job, resume)
    else:
        job.make()


@app.command(rich_help_panel="Generate")
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder, created if missing.")] = Path("out/demo"),
) -> None:
    """Generate a video of three scenes with the model in the package."""
    began = time.monotonic()
    for number, prompt in enumerate(DEMO, start=1):
        print(f"scene {number}: {prompt}", flush=True)

    from phenaki.core.files import writing
    from phenaki.media.montage import contact_sheet, upscale
    from phenaki.media.writer import write_image
    from phenaki.pipeline import Phenaki

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    model = Phenaki.from_pretrained(DEFAULT_MODEL)
    started = time.monotonic()
    result = model.generate(DEMO, progress=True)
    made, count = time.monotonic() - started, result.video.shape[2]

    video, animation, sheet = out / "demo.mp4", out / "demo.gif", out / "demo.png"
    result.save(video, upscale=4)
    result.save(animation, upscale=4)
    ends = (*result.scene_starts[1:], count)
    scenes = [upscale(result.clips[0, i:j], 2) for i, j in zip(result.scene_starts, ends, strict=True)]
    write_image(sheet, contact_sheet(scenes, frames=8, labels=DEMO))
    print(f"{count} frames in {made:.1f} s, {count / made:.1f} frames per second; ", end="")
    print(f"{time.monotonic() - began:.1f} s including imports, loading and writing")
    print(f"video          {video}\nanimation      {animation}\ncontact sheet  {sheet}")
