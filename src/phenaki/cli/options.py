"""Options that several commands share, each declared once."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from phenaki.cli.inputs import read_size
from phenaki.cli.output import PIPE, Output, output_path
from phenaki.core.errors import PhenakiError

if TYPE_CHECKING:
    from phenaki.pipeline import Phenaki

DEFAULT_MODEL = "shapes-64"


def _complete_model(incomplete: str) -> list[str]:
    from phenaki.core import hub

    return [name for name in hub.model_names() if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A model in the package (see `phenaki models`), a folder, or owner/name on the Hugging Face Hub.",
        autocompletion=_complete_model,
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
    guidance_over: Annotated[
        str | None,
        _sampling("What guidance amplifies: text, or both text and actions (the same without actions).", "NAME"),
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


def _frame_size(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help, show_default=False)


@dataclass(frozen=True)
class VideoArgs:
    """The model and the video to write."""

    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file: .mp4, .gif, .webp (animated) or .png (a contact sheet; one frame is a plain picture). "
            "A name that ends in / is a folder of numbered pictures. -: an mp4 to standard output.",
            show_default="an mp4 named after the prompt",
        ),
    ] = None
    model: ModelOption = DEFAULT_MODEL
    size: Annotated[
        str | None,
        _frame_size(
            "WxH",
            "Frame size in pixels, in multiples of the model's patch (8 for shapes-64). Models are best at the size "
            "they were trained on, which is the default.",
        ),
    ] = None
    width: Annotated[int | None, _frame_size("N", "Width of the frames, in place of --size.")] = None
    height: Annotated[int | None, _frame_size("N", "Height of the frames, in place of --size.")] = None
    samples: Annotated[
        int,
        typer.Option(
            "--samples", "-n", min=1, max=64, metavar="N", help="Number of videos to generate, written side by side."
        ),
    ] = 1
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed: the same seed gives the same video on one machine.")
    ] = 0
    fps: Annotated[
        float | None,
        typer.Option(metavar="FPS", help="Frame rate of the file.", show_default="the model's"),
    ] = None
    upscale: Annotated[int, typer.Option(min=1, max=32, metavar="N", help="Enlarge every pixel by this factor.")] = 4
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse prompts with words that the model has never read.")
    ] = False
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 and so on. auto: CUDA if there is any.")
    ] = "auto"
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Of matrix products: float32 or bfloat16. auto: bfloat16 where it is faster."
        ),
    ] = "auto"
    compile: Annotated[
        bool, typer.Option("--compile", help="Run layers through torch.compile: for many videos on a GPU.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print neither progress nor a summary.")] = False

    def check(self, title: str, frames: int | Sequence[int] | None) -> str:
        """Where the video goes; `title` names it if --out does not. Raises PhenakiError for what can be refused at
        once, without torch: paths, lengths, sizes, unknown models."""
        from phenaki.core import hub
        from phenaki.core.grid import check_frame_size, check_scene_length, latent_frames, patch_rows
        from phenaki.core.reading import read_regular
        from phenaki.media.writer import check_path

        path = output_path(self.out, title)
        if path != str(PIPE):
            check_path(path)
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise PhenakiError(f"--precision '{self.precision}': use auto, float32 or bfloat16")
        if "/" in self.model and not os.path.isdir(self.model):  # of the hub
            return path
        config = hub.resolve(self.model) / "generator" / "config.json"
        try:
            spec = json.loads(read_regular(config))["config"]["tokenizer"]
            patch, image_size = spec["patch"], spec["image_size"]
        except (OSError, ValueError, KeyError, TypeError):  # loading the model says what is wrong with it
            return path
        for length in [frames] if isinstance(frames, int) else frames or ():
            check_scene_length(length)
            latent_frames(length, patch[0])
        height, width = self.frame_size(image_size)
        patch_rows(height, width, tuple(patch[1:]))
        check_frame_size(height, width, image_size)
        return path

    def frame_size(self, trained: Sequence[int]) -> tuple[int, int]:
        """Height and width of the frames, those of training where no option says."""
        if self.size and (self.width or self.height):
            raise PhenakiError("--size and --width or --height: give one of the two")
        height, width = read_size(self.size) if self.size else trained
        return (height if self.height is None else self.height), (width if self.width is None else self.width)

    def load(
        self, prompts: Sequence[str], frames: int | Sequence[int] | None, options: Mapping[str, Any]
    ) -> tuple[Phenaki, tuple[int, int]]:
        """The model, and height and width of its frames. What the model will refuse is refused before its weights are
        loaded."""
        import torch

        from phenaki.core import hub
        from phenaki.core.precision import resolve_device
        from phenaki.pipeline import Phenaki, read_outline

        device = resolve_device(self.device)
        outline = read_outline(hub.resolve(self.model))
        outline.check(prompts, frames, self.frame_size(outline.tokenizer.image_size), options)
        model = Phenaki.from_pretrained(self.model, device)
        model.strict = self.strict
        if self.precision != "auto":
            model.to(dtype=getattr(torch, self.precision))
        if self.compile:
            model.compile()
        return model, self.frame_size(model.image_size)

    def output(self, path: str, metadata: dict[str, Any], size: tuple[int, int], fps: float) -> Output:
        """`fps`: the model's."""
        rate = fps if self.fps is None else self.fps
        options = {"samples": self.samples, "upscale": self.upscale, "quiet": self.quiet}
        return Output(path, size, fps=rate, metadata=metadata, **options)


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
