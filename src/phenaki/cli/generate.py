"""Text to video: `phenaki generate`, `demo` and `models`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from phenaki.cli.app import app
from phenaki.cli.inputs import read_picture, read_size
from phenaki.cli.output import Output
from phenaki.cli.story import write_story
from phenaki.core.errors import PhenakiError

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


OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Where to write. The ending decides: .mp4, .gif, .webp (animated), .png (a contact sheet; of one frame a "
        "picture); no ending: a folder of numbered pictures; -: an mp4 to standard output, as it is made.",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    int, typer.Option(min=1, max=64, help="Make so many videos of the same prompts, side by side.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same video on the same machine.")]
FpsOption = Annotated[
    float | None,
    typer.Option(help="Frames per second at which the file is played.", show_default="the model's own"),
]
UpscaleOption = Annotated[
    int, typer.Option(min=1, max=32, help="Write each pixel so many times as wide and as high; 1: as it is.")
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Width and height of the frames, in pixels: multiples of the model's patch (8 in shapes-64). What is "
        "given is fitted to it. A model draws best at the size it was trained on.",
        show_default="the model's own",
    ),
]
PrimeFramesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many of the last frames are gone on from: the paper's K, 1 + 2k for a time step of 2 frames.",
        show_default="the model's own",
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        help="Decoding steps for each clip, and for a first frame that is decoded by itself. More take longer, and "
        "are not always better.",
        show_default="the model's own",
        rich_help_panel="Sampling",
    ),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        help="How strongly the text pulls: 1 follows it as trained, more holds to it more closely at the cost of "
        "variety.",
        show_default="the model's own",
        rich_help_panel="Sampling",
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        help="How freely each token is drawn: 0 always takes the likeliest, 1 draws as the model says.",
        show_default="the model's own",
        rich_help_panel="Sampling",
    ),
]

OrderOption = Annotated[
    str | None,
    typer.Option(
        help="Which of the drawn tokens stay after a step: 'confidence' (those the model is surest of), 'random', "
        "'halton' (evenly spread), or 'critic' (those that the model's critic, if it has one, takes for real).",
        show_default="the model's own",
        rich_help_panel="Sampling",
    ),
]


def sampling_options(
    prime_frames: int | None,
    steps: int | None,
    guidance_scale: float | None,
    temperature: float | None,
    order: str | None,
) -> dict[str, Any]:
    """The options that all commands share, by the names of `phenaki.sampling.SamplingOptions`."""
    return {
        "prime_frames": prime_frames,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "temperature": temperature,
        "order": order,
    }


@app.command()
def generate(
    out: OutOption,
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
            help="Read the scenes from a text file, or from standard input (-) as they come, one prompt to a line; "
            "settings of a scene in brackets: '\\[frames=21 prime_frames=5] now it turns blue'. Empty lines and lines "
            "that begin with # are skipped. An mp4 can be watched as NAME.part.mp4 while it is made.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a --story to an .mp4 that was interrupted, or begin it."),
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A picture that the video begins with; it is fitted to the size.", show_default=False
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
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What is not to be seen: guidance leads away from this prompt, in place of away from no prompt.",
            show_default=False,
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
    if resume and not (story and out.suffix.lower() == ".mp4"):
        raise PhenakiError("--resume goes on with a --story that is written to an .mp4")

    from phenaki.pipeline import Phenaki, step_bar

    loaded = Phenaki.from_pretrained(model)
    pixels = read_size(size) if size else loaded.image_size
    output = Output(out, loaded, pixels, samples, upscale, fps, seed)
    start = None if image is None else read_picture(image, pixels, loaded.fps)
    begin = {"start": start, "size": pixels, "seed": seed, "samples": samples}
    sampling = sampling_options(prime_frames, steps, guidance_scale, temperature, order) | {
        "choice_temperature": choice_temperature,
        "top_k": top_k,
        "negative_prompt": negative_prompt,
    }
    with step_bar() as on_step:
        if story:
            write_story(story, output, loaded, resume, frames, begin, sampling, on_step)
            return
        with output.writing() as add:
            for piece in loaded.stream(prompts, frames=frames, **begin, on_step=on_step, **sampling):
                add(piece)


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
    ends = (*result.scenes[1:], count)
    scenes = [upscale(result.clips[0, i:j], 2) for i, j in zip(result.scenes, ends, strict=True)]
    write_image(sheet, contact_sheet(scenes, frames=8, labels=DEMO))
    print(f"{count} frames made in {made:.1f} s, {count / made:.1f} frames per second; ", end="")
    print(f"{time.monotonic() - began:.1f} s with imports, loading and writing")
    print(f"video          {video}\nanimation      {animation}\ncontact sheet  {sheet}")


@app.command()
def models() -> None:
    """List the models in the package."""
    from phenaki.core import hub
    from phenaki.core.components import read_config

    if not hub.model_names():
        print("There are no models in this package.")
    for name in hub.model_names():
        folder = hub.ZOO / name
        _, generator = read_config(folder / "generator")
        spec = generator["tokenizer"]
        height, width = spec["image_size"]
        megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        print(
            f"{name}: {width}x{height} pixels, {spec['fps']:g} frames per second, "
            f"scenes of {generator['frames']} frames, {megabytes:.1f} MB"
        )
