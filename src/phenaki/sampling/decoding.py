"""Parallel decoding (MaskGIT 2202.04200, section 3.2; Phenaki, section 2.2) over a callable that gives logits.

It knows no model, text or guidance: `logits_fn(ids, where)` takes ids int64 (B, t, h, w), with `mask_id` where unknown,
and bool (B, t, h, w), and returns logits (M, V) of the M positions that are True, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.generators.masking import Schedule, masked_count
from phenaki.sampling.filters import filtered
from phenaki.sampling.orders import Order, planned

LogitsFn = Callable[[Tensor, Tensor], Tensor]
ScoresFn = Callable[[Tensor], Tensor]
"""ids int64 (B, t, h, w), all filled in -> float (B, t, h, w), log-odds that an id is real: the lowest are redrawn."""
_AT_ONCE = 1 << 22  # numbers of (M, V) that drawing works on at a time: 16 MB for each copy that it makes


@dataclass(frozen=True)
class SamplingConfig:
    """How ids are drawn; docs/sampling.md says what each setting does to the videos.

    `steps`: in how many the ids of a clip are filled in. `schedule`: how many are left to fill in after each step.
    `order`: which are filled in first: "confidence" (those that are likeliest as drawn), "random", "halton" (evenly
    spread over the grid), or "critic" (all are judged anew after each step, those fixed earlier too).

    `guidance` scales the text's pull (1: none beyond the text itself), in the last guided step `guidance_end`, and
    between them along a line; None: the same in all steps. `guidance_share`: of the steps, from the first on, that are
    guided, rounded, at least one; the others have the text alone and take half the time. A frame by itself is guided in
    all of its steps. `negative`: a prompt to lead away from, in place of no text.

    `temperature` divides the logits (0 takes the likeliest id), in the last step `temperature_end`, as with guidance.
    `choice_temperature` scales the Gumbel noise on the log-confidence, or on what the critic says, that decides which
    ids stay, and falls to 0 over the steps. Ids are drawn from the `top_k` likeliest (0: all), from the fewest whose
    probabilities add up to `top_p`, and from the most typical ones that add up to `typical_p` (1: all). These narrow
    what is drawn; the confidence in it is the model's own.

    `prime_frames`: how many of the last frames the next scene of a story begins with (the paper's K).
    `first_frame_alone`: the first frame is decoded by itself, as an image, and the rest of the first clip goes on from
    it: a sixth of the ids of 11 frames, on which all others stand. It takes `first_frame_steps` (0: as many as the
    others).
    """

    steps: int = 12
    guidance: float = 3.0
    temperature: float = 1.0
    choice_temperature: float = 4.5
    top_k: int = 0
    schedule: Schedule = "cosine"
    prime_frames: int = 5
    first_frame_alone: bool = False
    first_frame_steps: int = 0
    order: Order = "confidence"
    top_p: float = 1.0
    typical_p: float = 1.0
    temperature_end: float | None = None
    guidance_end: float | None = None
    guidance_share: float = 1.0
    negative: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PhenakiError(f"steps {self.steps}: decoding takes at least 1 step")
        if self.first_frame_steps < 0:
            raise PhenakiError(f"first_frame_steps {self.first_frame_steps} must not be below 0")
        for name in ("guidance", "guidance_end", "temperature", "temperature_end", "choice_temperature", "top_k"):
            if (getattr(self, name) or 0) < 0:
                raise PhenakiError(f"{name} {getattr(self, name)} must not be below 0")
        for name, meant in (("top_p", "leaves all ids"), ("typical_p", "leaves all ids"), ("guidance_share", "is all")):
            if not 0 < getattr(self, name) <= 1:
                raise PhenakiError(f"{name} {getattr(self, name)}: give a share above 0, up to 1, which {meant}")
        for name, known in (("schedule", get_args(Schedule)), ("order", get_args(Order))):
            value = getattr(self, name)
            if value not in known:
                raise PhenakiError(f"{name} {value!r}: there are {', '.join(known)}.{did_you_mean(str(value), known)}")
        if self.prime_frames < 1:
            raise PhenakiError(f"prime_frames {self.prime_frames}: a scene goes on from at least 1 frame")
        if self.negative is not None and all(scale == 1 for scale in self.scales):
            raise PhenakiError(
                f"the negative prompt {self.negative!r} changes nothing at guidance 1: give a guidance above 1"
            )

    def check_critic(self, there: bool) -> None:
        """Raise PhenakiError for the order "critic" unless there is one."""
        if self.order == "critic" and not there:
            others = ", ".join(order for order in get_args(Order) if order != "critic")
            raise PhenakiError(
                f"the order 'critic' needs a critic, which this model does not have: take one of {others}, or train it "
                "one (`phenaki train critic --help`)"
            )

    @property
    def scales(self) -> list[float]:
        """Of the guidance, one for each step."""
        guided = max(1, round(self.guidance_share * self.steps))
        return _line(self.guidance, self.guidance_end, guided) + [1.0] * (self.steps - guided)

    @property
    def temperatures(self) -> list[float]:
        """One for each step."""
        return _line(self.temperature, self.temperature_end, self.steps)


@torch.no_grad()
def decode(
    logits_fn: LogitsFn | Sequence[LogitsFn],
    ids: Tensor,
    known: Tensor,
    mask_id: int,
    config: SamplingConfig,
    rng: torch.Generator,
    on_step: Callable[[int], None] | None = None,
    critic: ScoresFn | None = None,
) -> Tensor:
    """Fill in the unknown ids, step by step.

    Args:
        logits_fn: one for all steps, or a sequence with one for each, as guidance that rises needs them.
        ids: int64 (B, t, h, w); only its `known` (bool, same shape) positions are read, and they come back bit-equal.
        mask_id: the id that stands for "unknown" in what `logits_fn` is given.
        rng: source of all randomness, on the device of `ids`: the same state gives the same ids on the same machine.
        on_step: called with the number of finished steps, for a progress bar.
        critic: what the order "critic" asks; the others leave it alone.

    Returns:
        ids int64 (B, t, h, w), all filled in.

    Raises PhenakiError for the order "critic" without one.
    """
    config.check_critic(critic is not None)
    each = [logits_fn] * config.steps if callable(logits_fn) else logits_fn
    free = masked = ~known
    ids = ids.masked_fill(masked, mask_id)
    count = free.flatten(1).sum(1)
    plan = planned(config.order, ids.shape, rng, ids.device)
    for step, (logits_fn, temperature) in enumerate(zip(each, config.temperatures, strict=True), start=1):
        if masked.any():
            progress = torch.full_like(count, step, dtype=torch.float) / config.steps
            left = masked_count(progress, count, config.schedule)
            if plan is None:
                drawn, confidence = _draw(logits_fn(ids, masked), temperature, config, rng)
                ids = ids.masked_scatter(masked, drawn)
                judged, scores = (free, critic(ids)[free]) if config.order == "critic" else (masked, confidence)
                noise = config.choice_temperature * (1 - step / config.steps)
                masked = _lowest(judged, scores.float() + noise * _gumbel(scores.shape, rng, ids.device), left)
                ids = ids.masked_fill(masked, mask_id)
            else:  # only what stays needs logits
                later = _lowest(masked, plan[masked], left)
                now = masked & ~later
                if now.any():
                    ids = ids.masked_scatter(now, _draw(logits_fn(ids, now), temperature, config, rng)[0])
                masked = later
        if on_step is not None:
            on_step(step)
    return ids


def _draw(logits: Tensor, temperature: float, config: SamplingConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    shape, device = (len(logits), 1), logits.device
    uniform = torch.rand(shape, generator=rng, device=device) if temperature else torch.zeros(shape, device=device)
    return draw(logits, uniform, temperature, config)


def draw(logits: Tensor, uniform: Tensor, temperature: float, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """logits (M, V) -> drawn ids (M,), by one number in [0, 1) each, (M, 1), where the temperature is above 0, and the
    log-probability of each (M,); a few rows at a time."""
    rows = max(1, _AT_ONCE // logits.shape[-1])
    parts = zip(logits.split(rows), uniform.split(rows), strict=True)
    drawn, confidence = zip(*(_draw_rows(*part, temperature, config) for part in parts), strict=True)
    return torch.cat(drawn), torch.cat(confidence)


def _draw_rows(logits: Tensor, uniform: Tensor, temperature: float, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """`draw` of all rows at once."""
    log_p = (logits.float() / (temperature or 1)).log_softmax(-1)
    allowed = filtered(log_p, config.top_k, config.top_p, config.typical_p)
    if temperature == 0:
        drawn = allowed.argmax(-1)
    else:
        # Inverting the cumulative distribution takes one uniform number a token; Gumbel noise would take V.
        cumulative = allowed.exp().cumsum(-1)
        total = cumulative[:, -1:]
        below = total.nextafter(
            torch.zeros_like(total)
        )  # rounding may reach the total, and what follows it is not allowed
        drawn = torch.searchsorted(cumulative, (uniform * total).minimum(below), right=True).squeeze(-1)
    return drawn, log_p.gather(-1, drawn[:, None]).squeeze(-1)


def _lowest(where: Tensor, scores: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) positions of lowest scores (M,) among the M that are True in `where` (B, t, h, w), as a mask."""
    grid = torch.full(where.shape, float("inf"), device=where.device)
    grid = grid.masked_scatter(where, scores)
    rank = grid.flatten(1).argsort(1).argsort(1).view(where.shape)
    return rank < count.view(-1, 1, 1, 1)


def _gumbel(shape: torch.Size, rng: torch.Generator, device: torch.device) -> Tensor:
    uniform = torch.rand(shape, generator=rng, device=device).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()


def _line(start: float, end: float | None, steps: int) -> list[float]:
    """A value for each step, from `start` in the first to `end` in the last; None: `start` in all."""
    if end is None or steps == 1:
        return [start] * steps
    return [start * (1 - i / (steps - 1)) + end * (i / (steps - 1)) for i in range(steps)]
