"""Editing: some ids of a clip are known and held, the others are made anew (MaskGIT 2202.04200, section 4.3).

The tokenizer is causal, so the ids of what is known depend on the pixels before it, those to be made included. What
stands there while the ids are taken is chosen here, and never looked at otherwise; docs/editing.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.conditioning.base import TextEncoder
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames, latent_frames
from phenaki.core.precision import autocast
from phenaki.generators.base import Generator
from phenaki.generators.critic import Critic
from phenaki.sampling.critic import judged
from phenaki.sampling.decoding import SamplingConfig, decode
from phenaki.sampling.guidance import steered
from phenaki.sampling.rollout import Scene, encoded, plan, window_sampling
from phenaki.tokenizers.base import Tokenizer

OnStep = Callable[[int], None]


@torch.no_grad()
def interpolate(
    tokenizer: Tokenizer,
    generator: Generator,
    text_encoder: TextEncoder,
    first: Tensor,
    last: Tensor,
    prompt: str | tuple[str, ...],
    frames: int,
    config: SamplingConfig,
    rng: torch.Generator,
    samples: int = 1,
    on_step: OnStep | None = None,
    critic: Critic | None = None,
) -> Tensor:
    """Make the frames that lead from the end of one clip to the beginning of another, in one decoding.

    Args:
        first, last: float (B or 1, 3, n, H, W) in [0, 1], pictures where n = 1. Of `first` the last frames are known,
            `config.prime_frames` at most; of `last` as many time steps less one, but one at least.
        frames: 1 + p k of the clip that is decoded, the known ones among them.
        on_step: called `config.steps` times. critic: what the order "critic" asks.

    Returns:
        video float32 (B, 3, n, H, W) in [0, 1], the new frames alone.

    Raises PhenakiError for more frames than the generator writes, and for so few that none is new.
    """
    period, longest = tokenizer.patch[0], generator.config.frames
    first, last = (clip.expand(samples, -1, -1, -1, -1) for clip in (first, last))
    head = first[:, :, -floor_frames(min(config.prime_frames, first.shape[2]), period) :]
    steps = max(1, min(last.shape[2], head.shape[2] - 1) // period)
    tail = last[:, :, : period * steps]
    given = head.shape[2] + period * steps
    if not given + period <= frames <= longest:
        raise PhenakiError(
            f"{frames} frames, of which {given} are those of the two ends: this generator makes at most {longest} in "
            f"one piece, and something new takes at least {given + period}"
            + (", which is more: keep fewer frames" if given + period > longest else "")
        )
    ids = tokenizer.encode(_faded(head, tail, frames))
    known = torch.ones_like(ids, dtype=torch.bool)
    known[:, latent_frames(head.shape[2], period) : ids.shape[1] - steps] = False
    text = encoded(text_encoder, prompt, samples)
    logits_fn, critic_fn = steered(generator, text_encoder, text, config), judged(critic, generator, text, config)
    with autocast(ids.device):  # around all steps: it casts the weights once
        ids = decode(logits_fn, ids, known, generator.mask_id, config, rng, on_step, critic_fn)
    return tokenizer.decode(ids)[:, :, head.shape[2] : frames - tail.shape[2]]


def _faded(head: Tensor, tail: Tensor, frames: int) -> Tensor:
    """A clip of so many frames that fades from one to the other."""
    weight = torch.linspace(0, 1, frames - head.shape[2] - tail.shape[2] + 2, device=head.device)[1:-1]
    weight = weight.view(-1, 1, 1)
    between = (1 - weight) * head[:, :, -1:] + weight * tail[:, :, :1]
    return torch.cat((head, between, tail), 2)


@torch.no_grad()
def inpaint(
    tokenizer: Tokenizer,
    generator: Generator,
    text_encoder: TextEncoder,
    video: Tensor,
    hole: Tensor,
    prompt: str | tuple[str, ...],
    config: SamplingConfig,
    rng: torch.Generator,
    blend: bool = False,
    on_step: OnStep | None = None,
    critic: Critic | None = None,
) -> Iterator[Tensor]:
    """Make a part of a video anew, window by window as `plan` has them.

    A token is made anew if any of its pixels lies in the hole; all others are known and stay bit-equal.

    Args:
        video: float (B, 3, T, H, W) in [0, 1]. What lies in the hole does not change the result.
        hole: bool (B or 1, 1, T or 1, H, W), True where pixels are to be made anew.
        blend: put the pixels of all tokens that are kept back in their place, bit-equal.
        critic: what the order "critic" asks.

    Yields:
        video float32 (B, 3, n, H, W) in [0, 1], the frames of a window.
    """
    period, samples = tokenizer.patch[0], len(video)
    hole = hole.expand(samples, 1, *video.shape[2:])
    canvas = _closed(video, hole)
    text = encoded(text_encoder, prompt, samples)
    made, ids, done = video[:, :, :0], None, 0
    for window in plan([Scene(prompt, video.shape[2])], generator.config.frames, period, config):
        given, end = min(window.known, done), done + window.new
        before = ids if given == done else tokenizer.encode(made[:, :, -given:])
        ids = tokenizer.encode(canvas[:, :, done - given : end])
        known = ~tokens(hole[:, :, done - given : end], tokenizer.patch)
        if given:
            ids[:, : before.shape[1]], known[:, : before.shape[1]] = before, True
        own = window_sampling(window, config)
        logits_fn, critic_fn = steered(generator, text_encoder, text, own), judged(critic, generator, text, own)
        with autocast(ids.device):
            ids = decode(logits_fn, ids, known, generator.mask_id, own, rng, on_step, critic_fn)
        new = tokenizer.decode(ids)[:, :, given:]
        if blend:
            anew = pixels(~known, tokenizer.patch)[:, :, given:]
            new = torch.where(anew, new, video[:, :, done:end])
        made, done = torch.cat((made, new), 2)[:, :, -generator.config.frames :], end
        yield new


def tokens(hole: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """bool (B, 1, T, H, W) -> bool (B, t, h, w): the tokens of which any pixel lies in the hole."""
    first = hole[:, :, :1].expand(-1, -1, patch[0] - 1, -1, -1)  # a time step by itself
    return F.max_pool3d(torch.cat((first, hole), 2).float(), patch).squeeze(1).bool()


def pixels(where: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """bool (B, t, h, w) -> bool (B, 1, T, H, W): all pixels of these tokens."""
    for axis, times in enumerate(patch, start=1):
        where = where.repeat_interleave(times, axis)
    return where[:, None, patch[0] - 1 :]


def _closed(video: Tensor, hole: Tensor) -> Tensor:
    """The video with each frame's hole in the mean colour of the rest of it, which says nothing of what was there."""
    rest = (~hole).float()
    mean = (video * rest).sum((-2, -1), keepdim=True) / rest.sum((-2, -1), keepdim=True).clamp_min(1)
    return torch.where(hole, mean, video)
