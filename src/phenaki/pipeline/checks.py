"""What a call asks for: brought into the model's form, and checked before any work begins."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phenaki.conditioning import Text
from phenaki.core.arguments import as_int
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import check_frame_size, check_scene_length, floor_frames, latent_frames
from phenaki.core.memory import available_memory
from phenaki.generators import Components, Generator
from phenaki.generators.components import check_samples, check_text_width
from phenaki.media.inputs import VideoInput, as_mask, as_video
from phenaki.pipeline.results import Generation
from phenaki.sampling import SamplingConfig, SamplingOptions
from phenaki.sampling.scenes import Prompt

Prompts = str | Sequence[str | Sequence[str] | Text] | Text | Tensor
"""A prompt, or one for each scene, where a list has one for each sample; or embeddings in their place."""


def as_prompts(prompts: Prompts | None, components: Components) -> list[Prompt]:
    """The prompt of each scene: text, a tuple with a text for each sample, or embeddings of one row.

    Embeddings are a `Text` of as many rows as scenes, or a tensor float (L, D) or (B, L, D) without padding. Raises
    PhenakiError for anything else, and for embeddings that do not fit the generator.
    """
    if isinstance(prompts, Tensor):
        prompts = prompts[None] if prompts.ndim == 2 else prompts
        prompts = Text(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool))
    if isinstance(prompts, Text):
        text = _check_embeddings(prompts, components)
        return [text.row(i) for i in range(len(text.mask))]
    if isinstance(prompts, str):
        return [prompts]
    if prompts is None:
        raise PhenakiError("there is no prompt: pass text, or a list with a text for each scene")
    if not isinstance(prompts, Iterable) or isinstance(prompts, (bytes, Mapping, PathLike)):
        raise PhenakiError(f"the prompt {prompts!r}: pass text, or a list with a text for each scene")
    scenes = [tuple(scene) if isinstance(scene, list) else scene for scene in prompts]
    if not scenes:
        raise PhenakiError("there is no prompt: give at least one")
    return [_check_embeddings(scene, components) if isinstance(scene, Text) else scene for scene in scenes]


def join_prompts(prompts: Sequence[Prompt]) -> Prompt:
    """The prompts of several samples as that of one scene."""
    if len(prompts) == 1:
        return prompts[0]
    texts = [prompt for prompt in prompts if isinstance(prompt, Text)]
    if not texts:
        return tuple(prompts)
    if len(texts) < len(prompts):
        raise PhenakiError("a batch of texts and embeddings: pass either")
    fields = zip(*(text for text in texts), strict=True)
    padded = (None if rows[0] is None else [row for text in rows for row in text] for rows in fields)
    return Text(*(rows and pad_sequence(rows, batch_first=True) for rows in padded))


def _check_embeddings(text: Text, components: Components) -> Text:
    text = text.checked().to(components.device)
    check_text_width(text.embeddings.shape[2], components.generator)
    return text


def check_count(samples: Any, scenes: Sequence[Prompt]) -> int:
    """How many videos are generated: `samples`, or as many as a scene has prompts."""
    counts = {len(scene) for scene in scenes if isinstance(scene, tuple) and not isinstance(scene, Text)}
    samples = as_int(samples, "samples")
    check_samples(samples)
    if counts - {samples} and (samples > 1 or len(counts) > 1):
        wanted = " and ".join(map(str, sorted(counts)))
        raise PhenakiError(f"scenes of {wanted} prompts for {samples} samples: give one prompt, or one for each")
    return max(counts, default=samples)


def check_lengths(frames: int | Sequence[int] | None, scenes: int) -> list[int | None]:
    """The frames of each scene; None: as long as the model's."""
    is_list = isinstance(frames, Iterable) and not isinstance(frames, str) and getattr(frames, "shape", None) != ()
    if not is_list:
        return [None if frames is None else as_int(frames, "frames")] * scenes
    lengths = [as_int(length, "frames") for length in frames]
    if len(lengths) != scenes:
        raise PhenakiError(f"{len(lengths)} lengths for {scenes} prompts: give one for each, or one for all")
    return lengths


def check_sampling(
    sampling: SamplingConfig, options: SamplingOptions, components: Components, has_actions: bool = False
) -> SamplingConfig:
    """The settings of a model with the options of a call. `has_actions`: whether the video is steered by some."""
    sampling = sampling.with_options(options)
    sampling.decoding.check_critic(components.critic is not None)
    if options.get("prime_frames") is not None:
        check_prime_frames(sampling.rollout.prime_frames, components)
    generator = components.generator
    sampling.guidance.check_actions(generator.has_cache and getattr(generator.config, "actions", None) is not None)
    if options.get("guidance_over") == "actions" and not has_actions:
        raise PhenakiError(
            "guidance_over 'actions' has no effect without actions: use 'text', or steer the video (`Phenaki.play`)"
        )
    if sampling.guidance.negative_prompt is not None:
        try:
            components.text_encoder.check(sampling.guidance.negative_prompt)
        except PhenakiError as error:
            raise PhenakiError(f"the negative prompt: {error}") from error
    return sampling


def check_seed(seed: int | None) -> int:
    """The seed of a call; None: a random one."""
    if seed is None:
        return secrets.randbits(31)
    number = as_int(seed, "seed")
    if not 0 <= number < 2**63:
        raise PhenakiError(f"seed {number}: give a whole number from 0 to 2^63 - 1")
    return number


def check_size(size: Any) -> tuple[int, int]:
    """Height and width."""
    is_list = isinstance(size, (Sequence, np.ndarray, Tensor)) and not isinstance(size, (str, bytes))
    if not is_list or getattr(size, "ndim", 1) != 1 or len(size) != 2:
        raise PhenakiError(f"size {size!r}: pass height and width, such as (64, 64)")
    height, width = (as_int(side, "size") for side in size)
    return height, width


def check_scene_frames(frames: int, first: bool, components: Components) -> None:
    """Raise PhenakiError for a scene whose frames do not fit, or add nothing to the `first`."""
    period = components.tokenizer.patch[0]
    check_scene_length(frames)
    latent_frames(frames, period)
    if frames == 1 and not first and components.generator.config.frames > 1:
        raise PhenakiError(
            "a scene of 1 frame adds nothing, since it begins with the last frame of the one before: "
            f"give at least {1 + period} frames"
        )


def check_prime_frames(prime_frames: int, components: Components) -> None:
    """Raise PhenakiError unless the generator can be conditioned on this many frames."""
    generator, period = components.generator, components.tokenizer.patch[0]
    if generator.has_cache:
        raise PhenakiError(
            f"prime_frames {prime_frames}: a causal generator always continues the last "
            f"{generator.config.window - 1} latent frames; omit prime_frames"
        )
    longest = generator.config.frames
    below = floor_frames(max(1, prime_frames), period)
    if prime_frames != below:
        raise PhenakiError(
            f"prime_frames {prime_frames} does not fit latent frames of {period} frames, which take 1 + {period}k: "
            f"use {below} or {below + period}"
        )
    if prime_frames > longest - period:
        raise PhenakiError(
            f"prime_frames {prime_frames} leaves no frame to generate of the {longest} that this generator writes "
            f"at a time: use at most {max(1, longest - period)}"
        )


def check_bidirectional(generator: Generator, task: str) -> None:
    """Raise PhenakiError for a generator that does not see later frames."""
    if generator.has_cache:
        raise PhenakiError(
            f"a causal generator does not see later frames, so it cannot {task}: use a bidirectional one, such as that "
            "of shapes-64"
        )


def check_enough_frames(video: Tensor, options: SamplingOptions, components: Components) -> None:
    """Raise PhenakiError if a video (B, 3, T, H, W) has fewer frames than `prime_frames`."""
    wanted, frames = options.get("prime_frames"), video.shape[2]
    prime_frames = 1 if wanted is None else as_int(wanted, "prime_frames")
    if prime_frames > frames:
        raise PhenakiError(
            f"prime_frames {prime_frames}, but the clip has {frames}: "
            f"use at most {floor_frames(frames, components.tokenizer.patch[0])}"
        )


def check_video(video: VideoInput | Generation, samples: int, components: Components, size: Any = None) -> Tensor:
    """A video of the caller's, checked, one for each sample, on the model's device.

    Files and PIL pictures are fitted to `size` (None: the trained one) and to the model's frame rate.
    """
    source = video.video if isinstance(video, Generation) else video
    video = as_video(source, size or components.tokenizer.config.image_size, components.tokenizer.config.fps)
    components.tokenizer.check_video(video)
    if len(video) not in (1, samples) or not video.numel():
        raise PhenakiError(f"videos {tuple(video.shape)} for {samples} samples: give one, or one for each")
    return video.to(components.device).expand(samples, -1, -1, -1, -1)


def check_start(
    start: VideoInput | Generation | None,
    size: tuple[int, int] | None,
    samples: int,
    options: SamplingOptions,
    components: Components,
) -> tuple[Tensor | None, tuple[int, int]]:
    """The first frames, one for each sample, and the size of the video, both checked."""
    size = None if size is None else check_size(size)
    if start is None:
        size = components.tokenizer.config.image_size if size is None else size
        check_frame_size(*size, components.tokenizer.config.image_size)
        components.tokenizer.grid(1, *size)
        check_memory(components.generator.config.frames, samples, size)
        return None, size
    video = check_video(start, samples, components, size)
    height, width = video.shape[-2:]
    check_frame_size(height, width, components.tokenizer.config.image_size)
    if size is not None and (height, width) != size:
        raise PhenakiError(
            f"size {size[1]}x{size[0]}, but the first frames have {width}x{height} pixels: give one of the two"
        )
    check_enough_frames(video, options, components)
    return video, (height, width)


def check_memory(frames: int, samples: int, size: tuple[int, int]) -> None:
    """Raise PhenakiError for a video that is larger than memory."""
    needed, available = 12 * frames * samples * size[0] * size[1], available_memory()  # float32 RGB
    if available is not None and needed > available:
        raise PhenakiError(
            f"{samples} videos of {frames:,} frames of {size[1]}x{size[0]} pixels take {needed / 2**30:,.1f} GiB, and "
            f"{available / 2**30:,.1f} are free: take fewer samples or smaller frames, or write the scenes one by one "
            "(rollout)"
        )


def check_mask(source: VideoInput, video: Tensor) -> Tensor:
    """A mask of a video (B, 3, T, H, W), checked, as bool (1, 1, T or 1, H, W) on the video's device."""
    frames, height, width = video.shape[2:]
    mask = as_mask(source, (height, width))
    if mask.shape[1:] != (height, width) or len(mask) not in (1, frames):
        raise PhenakiError(
            f"the mask has {len(mask)} frames of {mask.shape[2]}x{mask.shape[1]} pixels, and the video {frames} of "
            f"{width}x{height}: give one frame, or {frames}, of the video's size"
        )
    if not mask.any():
        raise PhenakiError("the mask is empty: paint the region to regenerate white")
    return mask[None, None].to(video.device)
