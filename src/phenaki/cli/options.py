"""Options that several commands share, each declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from phenaki.cli.inputs import read_size
from phenaki.cli.output import Output

if TYPE_CHECKING:
    from phenaki.pipeline import Phenaki

DEFAULT_MODEL = "shapes-64"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A model in the package (see `phenaki models`), a folder, or owner/name on the Hugging Face Hub.",
    ),
]


def _sampling(help: str, metavar: str) -> Any:
    panel = "Sampling (default: the settings of the model)"
    return typer.Option(metavar=metavar, help=help, show_default=False, rich_help_panel=panel)


@dataclass(frozen=True)
class SamplingArgs:
    """`phenaki.sampling.SamplingOptions`, as options of a command; None: the model's setting."""

    steps: Annotated[int | None, _sampling("Decoding steps per clip.", "N")] = None
    guidance_scale: Annotated[
        float | None,
        _sampling("Classifier-free guidance scale: 1 is no guidance, more follows the prompt more closely.", "X"),
    ] = None
    guidance_scale_end: Annotated[
        float | None, _sampling("Guidance scale in the last guided step, reached linearly.", "X")
    ] = None
    guidance_fraction: Annotated[
        float | None,
        _sampling("Fraction of the steps that are guided, from the first on; the others cost half.", "X"),
    ] = None
    negative_prompt: Annotated[
        str | None, _sampling("Steer away from this text, in place of the empty prompt.", "TEXT")
    ] = None
    temperature: Annotated[
        float | None, _sampling("Sampling temperature; at 0 the most likely token is always taken.", "X")
    ] = None
    temperature_end: Annotated[float | None, _sampling("Temperature in the last step, reached linearly.", "X")] = None
    choice_temperature: Annotated[
        float | None,
        _sampling("Noise in the choice of the tokens to keep; at 0 the most confident are kept.", "X"),
    ] = None
    top_k: Annotated[int | None, _sampling("Sample from the k most likely tokens only; 0 turns it off.", "N")] = None
    top_p: Annotated[float | None, _sampling("Nucleus sampling: probability mass to keep; 1 turns it off.", "X")] = None
    typical_p: Annotated[
        float | None, _sampling("Locally typical sampling: probability mass to keep; 1 turns it off.", "X")
    ] = None
    schedule: Annotated[
        str | None,
        _sampling("Mask schedule: cosine, linear, square, cubic or root.", "NAME"),
    ] = None
    order: Annotated[
        str | None,
        _sampling(
            "Order in which tokens are unmasked: confidence, random, halton (evenly spread), or critic (needs a model "
            "with a critic).",
            "NAME",
        ),
    ] = None
    prime_frames: Annotated[
        int | None, _sampling("How many of the last frames the next clip is conditioned on (K in the paper).", "N")
    ] = None


FirstFrameStepsOption = Annotated[
    int | None,
    _sampling("Decoding steps of the first frame, for a model that decodes it alone; default: --steps, if given.", "N"),
]

FramesOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Frames per scene: 1 + 2k for shapes-64. A scene that continues another starts with its last frame, and "
        "so adds one frame less.",
        show_default="as many as the model was trained on",
    ),
]


@dataclass(frozen=True)
class VideoArgs:
    """The model and the video to write."""

    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file: .mp4, .gif, .webp (animated) or .png (a contact sheet; one frame is a plain picture). "
            "Without a suffix: a folder of numbered pictures. -: an mp4 to standard output.",
            show_default=False,
        ),
    ]
    model: ModelOption = DEFAULT_MODEL
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Frame size in pixels, in multiples of the model's patch (8 for shapes-64). Models are best at the "
            "size they were trained on, which is the default.",
            show_default=False,
        ),
    ] = None
    samples: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Number of videos to generate, written side by side.")
    ] = 1
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed: the same seed gives the same video on one machine.")
    ] = 0
    fps: Annotated[
        float | None,
        typer.Option(metavar="FPS", help="Frame rate of the file.", show_default="the model's"),
    ] = None
    upscale: Annotated[int, typer.Option(min=1, max=32, metavar="N", help="Enlarge every pixel by this factor.")] = 4

    def load(self) -> tuple[Phenaki, tuple[int, int], Output]:
        """The model, height and width of its frames, and where they are written."""
        from phenaki.pipeline import Phenaki

        model = Phenaki.from_pretrained(self.model)
        size = read_size(self.size) if self.size else model.image_size
        return model, size, Output(self.out, model, size, self.samples, self.upscale, self.fps, self.seed)


def flatten_args(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its dataclass parameters as parameters of its own, which is what typer reads."""
    parameters = list(_flat_parameters(command))
    groups = {name: kind for name, kind in get_type_hints(command).items() if is_dataclass(kind)}

    @wraps(command)
    def flat(**values: Any) -> None:
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **made)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _flat_parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            yield from _flat_parameters(kind)
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)
