"""Parallel decoding (MaskGIT 2202.04200, section 3.2; Phenaki, section 2.2) over a callable that gives logits.

It knows no model, text or guidance: `logits_fn(ids, where)` takes ids int64 (B, t, h, w), with `mask_id` where unknown,
and bool (B, t, h, w), and returns logits (M, V) of the M positions that are True, in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phenaki.errors import PhenakiError
from phenaki.generator.masking import Schedule, masked_count

LogitsFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SamplingConfig:
    """How ids are drawn.

    `temperature` divides the logits (0 takes the likeliest id). `choice_temperature` scales the Gumbel noise on the
    log-confidence that decides which ids stay, and falls to 0 over the steps. `top_k`: only the k likeliest; 0: all.
    `guidance` scales the text's pull (1: none beyond the text itself). `prime_frames`: how many of the last frames the
    next scene of a story begins with (the paper's K). `first_frame_alone`: the first frame is decoded by itself, as an
    image, and the rest of the first clip goes on from it: a sixth of the ids of 11 frames, on which all others stand.
    """

    steps: int = 12
    guidance: float = 3.0
    temperature: float = 1.0
    choice_temperature: float = 4.5
    top_k: int = 0
    schedule: Schedule = "cosine"
    prime_frames: int = 5
    first_frame_alone: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PhenakiError(f"steps {self.steps}: decoding takes at least 1 step")
        for name in ("guidance", "temperature", "choice_temperature", "top_k"):
            if getattr(self, name) < 0:
                raise PhenakiError(f"{name} {getattr(self, name)} must not be below 0")
        if self.prime_frames < 1:
            raise PhenakiError(f"prime_frames {self.prime_frames}: a scene goes on from at least 1 frame")


@torch.no_grad()
def decode(
    logits_fn: LogitsFn,
    ids: Tensor,
    known: Tensor,
    mask_id: int,
    config: SamplingConfig,
    rng: torch.Generator,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Fill in the unknown ids, the surest first.

    Args:
        ids: int64 (B, t, h, w); only its `known` (bool, same shape) positions are read, and they come back bit-equal.
        mask_id: the id that stands for "unknown" in what `logits_fn` is given.
        rng: source of all randomness, on the device of `ids`: the same state gives the same ids on the same machine.
        on_step: called with the number of finished steps, for a progress bar.

    Returns:
        ids int64 (B, t, h, w), all filled in.
    """
    ids = ids.masked_fill(~known, mask_id)
    masked = ~known
    free = masked.flatten(1).sum(1)
    for step in range(config.steps):
        progress = torch.full_like(free, step + 1, dtype=torch.float) / config.steps
        if masked.any():
            drawn, confidence = _draw(logits_fn(ids, masked).float(), config, rng)
            remaining = config.choice_temperature * (1 - (step + 1) / config.steps)
            confidence = confidence + remaining * _gumbel(confidence.shape, rng, ids.device)
            ids = ids.masked_scatter(masked, drawn)
            masked = _least_sure(masked, confidence, masked_count(progress, free, config.schedule))
            ids = ids.masked_fill(masked, mask_id)
        if on_step is not None:
            on_step(step + 1)
    return ids


def _draw(logits: Tensor, config: SamplingConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """logits (M, V) -> drawn ids (M,) and the log-probability of each (M,)."""
    if config.top_k and config.top_k < logits.shape[-1]:
        kth = logits.topk(config.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if config.temperature == 0:
        log_p = logits.log_softmax(-1)
        drawn = log_p.argmax(-1)
    else:
        log_p = (logits / config.temperature).log_softmax(-1)
        # Inverting the cumulative distribution takes one uniform number a token; Gumbel noise would take V.
        cumulative = log_p.exp().cumsum(-1)
        uniform = torch.rand(len(logits), 1, generator=rng, device=logits.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, uniform, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return drawn, log_p.gather(-1, drawn[:, None]).squeeze(-1)


def _least_sure(masked: Tensor, confidence: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) positions of lowest confidence (M,) among the M that are `masked` (B, t, h, w), as a mask."""
    scores = torch.full(masked.shape, float("inf"), device=masked.device)
    scores = scores.masked_scatter(masked, confidence)
    rank = scores.flatten(1).argsort(1).argsort(1).view(masked.shape)
    return rank < count.view(-1, 1, 1, 1)


def _gumbel(shape: torch.Size, rng: torch.Generator, device: torch.device) -> Tensor:
    uniform = torch.rand(shape, generator=rng, device=device).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()
