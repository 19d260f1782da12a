"""Whether frames and masks fit a model, before any work begins."""

from __future__ import annotations

import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames
from phenaki.generators import Components, Generator
from phenaki.sampling import SamplingOptions


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
    prime_frames, frames = options.get("prime_frames") or 1, video.shape[2]
    if prime_frames > frames:
        raise PhenakiError(
            f"prime_frames {prime_frames}, but the clip has {frames}: "
            f"use at most {floor_frames(frames, components.tokenizer.patch[0])}"
        )


def check_video(video: Tensor, samples: int, components: Components) -> Tensor:
    """A video of the caller's, checked, one for each sample, on the model's device."""
    components.tokenizer.check_video(video)
    if len(video) not in (1, samples) or not video.numel():
        raise PhenakiError(f"videos {tuple(video.shape)} for {samples} samples: give one, or one for each")
    return video.to(components.device).expand(samples, -1, -1, -1, -1)


def check_start(
    start: Tensor | None,
    size: tuple[int, int] | None,
    samples: int,
    options: SamplingOptions,
    components: Components,
) -> tuple[Tensor | None, tuple[int, int]]:
    """The first frames, one for each sample, and the size of the video, both checked."""
    if start is None:
        size = components.tokenizer.config.image_size if size is None else size
        components.tokenizer.grid(1, *size)
        return None, size
    start = check_video(start, samples, components)
    height, width = start.shape[-2:]
    if size is not None and (height, width) != tuple(size):
        raise PhenakiError(
            f"size {size[1]}x{size[0]}, but the first frames have {width}x{height} pixels: give one of the two"
        )
    check_enough_frames(start, options, components)
    return start, (height, width)


def check_mask(mask: Tensor, video: Tensor) -> Tensor:
    """A mask of a video (B, 3, T, H, W), checked, as bool (1, 1, T or 1, H, W) on the video's device."""
    mask = mask[None] if mask.ndim == 2 else mask
    frames, height, width = video.shape[2:]
    if mask.dtype != torch.bool or mask.ndim != 3:
        raise PhenakiError(f"a mask of shape {tuple(mask.shape)} and type {mask.dtype}: give bool (H, W) or (T, H, W)")
    if mask.shape[1:] != (height, width) or len(mask) not in (1, frames):
        raise PhenakiError(
            f"the mask has {len(mask)} frames of {mask.shape[2]}x{mask.shape[1]} pixels, and the video {frames} of "
            f"{width}x{height}: give one frame, or {frames}, of the video's size"
        )
    if not mask.any():
        raise PhenakiError("the mask is empty: paint the region to regenerate white")
    return mask[None, None].to(video.device)
