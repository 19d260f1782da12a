"""Editing: some ids of a clip are known and fixed, the others are generated (MaskGIT 2202.04200, section 4.3).

The tokenizer is causal, so the ids of known pixels depend on the pixels before them, those to be generated included.
These get a neutral filling here while the clip is encoded; docs/log.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames, latent_frames
from phenaki.generators import Components
from phenaki.sampling.config import SamplingConfig
from phenaki.sampling.guidance import OnStep, sample_ids
from phenaki.sampling.scenes import Prompt, Scene, plan_windows, window_sampling


@torch.no_grad()
def interpolate(
    components: Components,
    first: Tensor,
    last: Tensor,
    prompt: Prompt,
    frames: int,
    sampling: SamplingConfig,
    rng: torch.Generator,
    samples: int = 1,
    on_step: OnStep | None = None,
) -> Tensor:
    """Generate the frames that lead from the end of one clip to the beginning of another, in one decoding.

    Args:
        first, last: float (B or 1, 3, n, H, W) in [0, 1], images where n = 1. Of `first` the last frames are known,
            `prime_frames` at most; of `last` as many latent frames less one, but at least one.
        frames: 1 + p k of the decoded clip, known frames included.
        on_step: called `sampling.decoding.steps` times.

    Returns:
        video float32 (B, 3, n, H, W) in [0, 1], the new frames alone.

    Raises PhenakiError for more frames than the generator writes, and for so few that none is new.
    """
    tokenizer, longest = components.tokenizer, components.generator.config.frames
    period = tokenizer.patch[0]
    first, last = (clip.expand(samples, -1, -1, -1, -1) for clip in (first, last))
    head = first[:, :, -floor_frames(min(sampling.rollout.prime_frames, first.shape[2]), period) :]
    tail_latents = max(1, min(last.shape[2], head.shape[2] - 1) // period)
    tail = last[:, :, : period * tail_latents]
    known_frames = head.shape[2] + period * tail_latents
    if not known_frames + period <= frames <= longest:
        raise PhenakiError(
            f"{frames} frames, {known_frames} of them known: this generator makes at most {longest} at a time, and at "
            f"least {known_frames + period} are needed for anything new"
            + (": use fewer known frames" if known_frames + period > longest else "")
        )
    ids = tokenizer.encode(_cross_fade(head, tail, frames))
    known = torch.ones_like(ids, dtype=torch.bool)
    known[:, latent_frames(head.shape[2], period) : ids.shape[1] - tail_latents] = False
    ids = sample_ids(components, components.encode_text(prompt, samples), ids, known, sampling, rng, on_step)
    return tokenizer.decode(ids)[:, :, head.shape[2] : frames - tail.shape[2]]


def _cross_fade(head: Tensor, tail: Tensor, frames: int) -> Tensor:
    """A clip of `frames` frames that fades from one to the other."""
    weight = torch.linspace(0, 1, frames - head.shape[2] - tail.shape[2] + 2, device=head.device)[1:-1]
    weight = weight.view(-1, 1, 1)
    between = (1 - weight) * head[:, :, -1:] + weight * tail[:, :, :1]
    return torch.cat((head, between, tail), 2)


@torch.no_grad()
def inpaint(
    components: Components,
    video: Tensor,
    hole: Tensor,
    prompt: Prompt,
    sampling: SamplingConfig,
    rng: torch.Generator,
    blend: bool = False,
    on_step: OnStep | None = None,
) -> Iterator[Tensor]:
    """Regenerate a part of a video, window by window as `plan_windows` has them.

    A token is regenerated if any of its pixels lies in the hole; all others are known and stay bit-equal.

    Args:
        video: float (B, 3, T, H, W) in [0, 1]. Its pixels in the hole do not change the result.
        hole: bool (B or 1, 1, T or 1, H, W), True where pixels are regenerated.
        blend: copy the original pixels of all kept tokens into the result, bit-equal.

    Yields:
        video float32 (B, 3, n, H, W) in [0, 1], the frames of a window.
    """
    tokenizer, longest = components.tokenizer, components.generator.config.frames
    period, samples = tokenizer.patch[0], len(video)
    hole = hole.expand(samples, 1, *video.shape[2:])
    canvas = _fill_hole(video, hole)
    text = components.encode_text(prompt, samples)
    result, ids, done = video[:, :, :0], None, 0
    for window in plan_windows([Scene(prompt, video.shape[2])], longest, period, sampling.rollout):
        known_frames, end = min(window.known, done), done + window.new
        before = ids if known_frames == done else tokenizer.encode(result[:, :, -known_frames:])
        ids = tokenizer.encode(canvas[:, :, done - known_frames : end])
        hole_ids = pixels_to_tokens(hole[:, :, done - known_frames : end], tokenizer.patch)
        known = ~hole_ids.repeat_interleave(tokenizer.num_codebooks, dim=-1)
        if known_frames:
            ids[:, : before.shape[1]], known[:, : before.shape[1]] = before, True
        ids = sample_ids(components, text, ids, known, window_sampling(window, sampling), rng, on_step)
        new = tokenizer.decode(ids)[:, :, known_frames:]
        if blend:
            patches = ~known[..., :: tokenizer.num_codebooks]
            regenerated = tokens_to_pixels(patches, tokenizer.patch)[:, :, known_frames:]
            new = torch.where(regenerated, new, video[:, :, done:end])
        result, done = torch.cat((result, new), 2)[:, :, -longest:], end
        yield new


def pixels_to_tokens(hole: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """bool (B, 1, T, H, W) -> bool (B, t, h, w): the tokens with any pixel in the hole."""
    first = hole[:, :, :1].expand(-1, -1, patch[0] - 1, -1, -1)  # the first frame is a latent frame of its own
    return F.max_pool3d(torch.cat((first, hole), 2).float(), patch).squeeze(1).bool()


def tokens_to_pixels(where: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """bool (B, t, h, w) -> bool (B, 1, T, H, W): all pixels of these tokens."""
    for axis, times in enumerate(patch, start=1):
        where = where.repeat_interleave(times, axis)
    return where[:, None, patch[0] - 1 :]


def _fill_hole(video: Tensor, hole: Tensor) -> Tensor:
    """The video with each frame's hole in the mean colour of the rest, which reveals nothing of what was there."""
    rest = (~hole).float()
    mean = (video * rest).sum((-2, -1), keepdim=True) / rest.sum((-2, -1), keepdim=True).clamp_min(1)
    return torch.where(hole, mean, video)
