"""The argument names of diffusers and phenaki-pytorch: taken as ours, or answered with ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypedDict, TypeVar

import numpy as np
import torch

from phenaki.conditioning import Text
from phenaki.core.arguments import check_types
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.hub import HubOptions
from phenaki.media.inputs import VideoInput
from phenaki.sampling import SamplingOptions

_OWN_CHECKS = ("prompt", "prompts", "scenes", "frames", "size", "seed", "samples", "start")
_OWN_CHECKS += ("video", "mask", "first", "last", "output_type")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Word(NamedTuple):
    """`ours`: the argument that a name stands for. `answer`: why there is none, and what to do instead."""

    ours: str = ""
    answer: str = ""


WORDS = {
    "prompt": Word("prompts"),
    "scenes": Word("prompts"),
    "texts": Word("prompts"),
    "text": Word("prompts"),
    "prompt_embeds": Word("prompts"),
    "text_embeds": Word("prompts"),
    "num_frames": Word("frames"),
    "video_length": Word("frames"),
    "num_inference_steps": Word("steps"),
    "cond_scale": Word("guidance_scale"),
    "cfg_scale": Word("guidance_scale"),
    "image": Word("start"),
    "height": Word("size"),
    "width": Word("size"),
    "generator": Word("seed"),
    "num_videos_per_prompt": Word("samples"),
    "num_images_per_prompt": Word("samples"),
    "batch_size": Word("samples"),
    "prime_lengths": Word("prime_frames"),
    "on_step": Word("on_progress"),
    "torch_dtype": Word("dtype"),
    "device_map": Word("device"),
    "callback": Word(answer="pass on_progress=, a function of the finished steps and their total"),
    "callback_on_step_end": Word(answer="pass on_progress=, a function of the finished steps and their total"),
    "starting_temperature": Word(answer="pass temperature= with temperature_end=0, which falls as it does"),
    "noise_K": Word(answer="pass choice_temperature=, the noise on the confidence"),
    "latents": Word(answer="there are no latents to pass: seed= decides the noise"),
    "negative_prompt_embeds": Word(answer="pass negative_prompt=, as text"),
    "eta": Word(answer="ids are not denoised; temperature= and choice_temperature= decide the noise"),
    "strength": Word(answer="conditioning frames are kept as they are; inpaint() regenerates what a mask marks"),
    "mask_image": Word(answer="call inpaint(video, mask, prompt)"),
    "video": Word(answer="call extend(video, prompts), or pass start="),
    "duration": Word(answer="pass frames=, of which there are model.fps in a second"),
    "fps": Word(answer="a model has one frame rate, model.fps; save(path, fps=...) plays it at another"),
    "frame_rate": Word(answer="a model has one frame rate, model.fps; save(path, fps=...) plays it at another"),
    "return_dict": Word(answer="the result is an object; its videos are result.video and result.frames"),
    "variant": Word(answer="a model has one set of weights; dtype= chooses the precision"),
    "use_safetensors": Word(answer="weights are always safetensors; leave it out"),
    "trust_remote_code": Word(answer="models bring no code; leave it out"),
}
"""By name; `docs/python.md` lists them."""


_SMALL = "models are small: to('cuda') moves all of one, and stream() holds a scene at a time"
_SAVE = "call save(path), where the ending decides"

MODEL_ATTRIBUTES = {
    "vae": "it is tokenizer",
    "unet": "it is generator",
    "transformer": "it is generator",
    "maskgit": "it is generator",
    "scheduler": "its settings are sampling, and arguments of generate()",
    "config": "see sampling, domain, and the config of tokenizer and generator",
    "dtype": "the precision of matrix products is components.precision; weights are float32",
    "cuda": "call to('cuda')",
    "cpu": "call to('cpu')",
    "half": "call to(torch.bfloat16)",
    "bfloat16": "call to(torch.bfloat16)",
    "float": "call to(torch.float32)",
    "eval": "it never trains; leave it out",
    "train": "training is a command: phenaki train --help",
    "parameters": "see components.networks",
    "sample": "call generate()",
    "make_video": "call generate(), which takes a prompt per scene",
    "save": "call save_pretrained(folder)",
    "set_progress_bar_config": "pass progress=False",
    "enable_model_cpu_offload": _SMALL,
    "enable_sequential_cpu_offload": _SMALL,
    "enable_attention_slicing": _SMALL,
    "enable_vae_slicing": _SMALL,
    "enable_vae_tiling": _SMALL,
    "enable_xformers_memory_efficient_attention": "attention is PyTorch's own; leave it out",
    "load_lora_weights": "train with --init-from instead",
}
RESULT_ATTRIBUTES = {
    "videos": "it is video, a tensor, or frames, PIL pictures",
    "images": "it is frames",
    "show": "a notebook plays the result itself; elsewhere " + _SAVE,
    "export_to_video": _SAVE,
    "display": "a notebook plays the result itself; elsewhere " + _SAVE,
    "to_gif": _SAVE,
    "numpy": "it is clips, uint8, or video.numpy()",
    "write": _SAVE,
    "shape": "it is video.shape",
}
"""What models and results of other libraries have, and what to use here."""


def no_attribute(owner: object, name: str, advice: Mapping[str, str]) -> AttributeError:
    """The error about an attribute that there is not, with what stands for it."""
    answer = f": {advice[name]}" if name in advice else ""
    message = f"'{type(owner).__name__}' object has no attribute '{name}'{answer}"
    return AttributeError(message, name=name, obj=owner)


class OtherWords(TypedDict, total=False):
    """Names that calls take beside their own (`WORDS`)."""

    prompt: str | Sequence[str] | Text | None
    texts: str | Sequence[str] | None
    prompt_embeds: Text | torch.Tensor | None
    num_frames: int | Sequence[int] | None
    num_inference_steps: int | None
    cond_scale: float | None
    image: VideoInput | None
    height: int | None
    width: int | None
    generator: torch.Generator | None
    num_videos_per_prompt: int | None
    num_images_per_prompt: int | None
    on_step: Callable[[int, int | None], None] | None


class LoadOptions(HubOptions, total=False):
    """Where a model on the hub is, and other words for arguments."""

    torch_dtype: torch.dtype | str | None
    device_map: str | None


class CallOptions(SamplingOptions, OtherWords, total=False):
    """Sampling options, and other words for them and for arguments."""


class ExtendOptions(CallOptions, total=False):
    """The arguments of `Phenaki.generate` but for the prompts and the first frames."""

    frames: int | Sequence[int] | None
    size: tuple[int, int] | None
    seed: int | None
    samples: int
    progress: bool
    on_progress: Callable[[int, int | None], None] | None


def other_words(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The method, which then takes the names of `WORDS` too, and names the nearest argument of one that it lacks."""
    method = check_types(method, skip=_OWN_CHECKS)
    signature = inspect.signature(method)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    own = {name for name in signature.parameters if name not in ("self", "cls", "options")}
    loads = "device" in own
    own |= set((HubOptions if loads else SamplingOptions).__annotations__) if open_ended else set()

    @wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        positional = signature.bind_partial(*args).arguments
        size = getattr(args[0], "image_size", None) if args else None
        ours = translate(kwargs, own, method.__name__, positional, size)
        return method(*args, **{name: _plain(value) for name, value in ours.items()})

    return call


def translate(
    values: Mapping[str, Any], own: set[str], call: str, positional: Mapping[str, Any] | None = None, size: Any = None
) -> dict[str, Any]:
    """The arguments of a call with our names. `own`: those that it has; `size`: (H, W) where one side alone is passed.

    Raises PhenakiError for names that stand for nothing here, and for two that stand for the same.
    """
    ours = {name: value for name, value in values.items() if name in own}
    used = {name: name for name in (*(positional or {}), *ours)}
    for name, value in values.items():
        if name in own:
            continue
        word = WORDS.get(name)
        if word is None or (word.ours and word.ours not in own):
            raise PhenakiError(f"{call}() has no argument '{name}'.{did_you_mean(name, own)}")
        if word.answer:
            raise PhenakiError(f"{call}() has no argument '{name}': {word.answer}")
        if value is None:
            continue
        earlier = used.setdefault(word.ours, name)
        if earlier != name and {earlier, name} != {"height", "width"}:
            raise PhenakiError(f"'{earlier}' and '{name}' are the same argument of {call}(): pass one")
        if name in ("height", "width"):
            rows, columns = ours.get("size", size)
            value = (value, columns) if name == "height" else (rows, value)
        elif name == "generator":
            value = _seed(value)
        ours[word.ours] = value
    return ours


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's."""
    return value.item() if isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and value.ndim == 0 else value


def _seed(rng: Any) -> int:
    """A seed from a torch.Generator, which moves on, so that its next use gives another video."""
    if not isinstance(rng, torch.Generator):
        raise PhenakiError(f"generator {type(rng).__name__}: pass one torch.Generator, or seed=, a number")
    return int(torch.randint(2**31, (), generator=rng, device=rng.device))
