"""Parallel decoding (MaskGIT 2202.04200, section 3.2; Phenaki, section 2.2) over a callable that gives logits.

It knows no model, text or guidance: `logits_fn(ids, where)` takes ids int64 (B, t, h, w), with `mask_id` where unknown,
and int64 (M,), indices into the flattened ids, and returns the logits (M, V) of those positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from phenaki.core.precision import to_device
from phenaki.generators.masking import masked_count
from phenaki.sampling.config import DecodingConfig
from phenaki.sampling.filters import filtered
from phenaki.sampling.noise import Rng, uniform
from phenaki.sampling.orders import planned_order

LogitsFn = Callable[[Tensor, Tensor], Tensor]
ScoresFn = Callable[[Tensor], Tensor]
"""Complete ids int64 (B, t, h, w) -> float (B, t, h, w), log-odds that an id is real: the lowest are resampled."""
_LOWEST = 1e-6  # temperature: logits divided by less are not finite
_CHUNK = 1 << 22  # elements of (M, V) that sampling works on at a time on a CPU: 16 MB for each copy that it makes
_GPU_CHUNK = 1 << 28  # 1 GB: kernels are few


@torch.no_grad()
def decode(
    logits_fn: LogitsFn | Sequence[LogitsFn],
    ids: Tensor,
    known: Tensor,
    mask_id: int,
    config: DecodingConfig,
    rng: Rng,
    on_step: Callable[[int], None] | None = None,
    critic_scores_fn: ScoresFn | None = None,
) -> Tensor:
    """Fill in the unknown ids, step by step.

    Args:
        logits_fn: one for all steps, or a sequence with one for each step, such as a guidance scale that rises needs.
        ids: int64 (B, t, h, w); only the `known` positions are read, and are returned bit-equal.
        known: bool (B, t, h, w), best on the CPU: the host counts them.
        mask_id: the id that stands for "unknown" in what `logits_fn` receives.
        rng: source of all randomness, on the device of `ids`: the same state gives the same ids on the same machine.
        on_step: called with the number of finished steps, for a progress bar.
        critic_scores_fn: used by the order "critic" alone.

    Returns:
        ids int64 (B, t, h, w), complete.

    Raises PhenakiError for the order "critic" without a critic.
    """
    config.check_critic(critic_scores_fn is not None)
    logits_fns = [logits_fn] * config.steps if callable(logits_fn) else logits_fn
    count = left = (~known).cpu().flatten(1).sum(1)  # how many are free, and masked: counted without asking a GPU again
    free = masked = to_device(~known, ids.device)  # to be generated; and of these, still unknown
    where_free = _indices(free, count)
    ids = ids.masked_fill(masked, mask_id)
    priority = planned_order(config.order, ids.shape, rng, ids.device)
    for step, (step_logits_fn, temperature) in enumerate(zip(logits_fns, config.temperatures, strict=True), start=1):
        if left.any():
            remaining = masked_count(torch.full((), step / config.steps), count, config.schedule)
            where = _indices(masked, left)
            if priority is None:
                sampled, confidence = _sample(step_logits_fn(ids, where), left, temperature, config, rng)
                ids = ids.masked_scatter(masked, sampled)
                if config.order == "critic":
                    candidates, scores, number = free, critic_scores_fn(ids).flatten()[where_free], count
                else:
                    candidates, scores, number = masked, confidence, left
                noise = config.choice_temperature * (1 - step / config.steps)
                noise = noise * _gumbel(uniform(number, rng, ids.device))
                masked = _lowest(candidates, scores.float() + noise, remaining)
                ids = ids.masked_fill(masked, mask_id)
            else:  # only the ids that are kept need logits
                still_masked = _lowest(masked, priority.flatten()[where], remaining)
                unmasked = masked & ~still_masked
                if (left > remaining).any():
                    logits = step_logits_fn(ids, _indices(unmasked, left - remaining))
                    sampled, _ = _sample(logits, left - remaining, temperature, config, rng)
                    ids = ids.masked_scatter(unmasked, sampled)
                masked = still_masked
            left = remaining
        if on_step is not None:
            on_step(step)
    return ids


def _indices(mask: Tensor, counts: Tensor) -> Tensor:
    """int64 (M,): where a mask (B, t, h, w) is True, `counts` (B,) times in each sample, which is known on the CPU."""
    return torch.nonzero_static(mask.flatten(), size=int(counts.sum())).squeeze(1)


def _sample(
    logits: Tensor, counts: Tensor, temperature: float, config: DecodingConfig, rng: Rng
) -> tuple[Tensor, Tensor]:
    device = logits.device
    noise = uniform(counts, rng, device) if temperature else torch.zeros(len(logits), device=device)
    return sample_logits(logits, noise[:, None], temperature, config)


def sample_logits(logits: Tensor, uniform: Tensor, temperature: float, config: DecodingConfig) -> tuple[Tensor, Tensor]:
    """Sample an id for each of M rows of logits (M, V), a few rows at a time.

    `uniform`: float (M, 1) in [0, 1), all the randomness; at temperature 0 it is not used. Returns ids int64 (M,) and
    the log-probability of each, float32 (M,), under the full distribution.
    """
    rows = max(1, (_CHUNK if logits.is_cpu else _GPU_CHUNK) // logits.shape[-1])
    chunks = zip(logits.split(rows), uniform.split(rows), strict=True)
    sampled, confidence = zip(*(_sample_chunk(*chunk, temperature, config) for chunk in chunks), strict=True)
    return torch.cat(sampled), torch.cat(confidence)


def _sample_chunk(logits: Tensor, uniform: Tensor, temperature: float, config: DecodingConfig) -> tuple[Tensor, Tensor]:
    log_p = (logits.float() / (max(temperature, _LOWEST) if temperature else 1)).log_softmax(-1)
    allowed = filtered(log_p, config.top_k, config.top_p, config.typical_p)
    if temperature == 0:
        sampled = allowed.argmax(-1)
    else:
        # Inverting the cumulative distribution takes one uniform draw a row; Gumbel noise would take V.
        cumulative = allowed.exp().cumsum(-1)
        total = cumulative[:, -1:]
        # Rounding may reach the total, and the ids after it are not allowed.
        target = (uniform * total).minimum(total.nextafter(torch.zeros_like(total)))
        sampled = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return sampled, log_p.gather(-1, sampled[:, None]).squeeze(-1)


def _lowest(candidates: Tensor, scores: Tensor, count: Tensor) -> Tensor:
    """bool like `candidates`: the `count` (B,) of lowest score, of the scores (M,) of the M True candidates."""
    grid = torch.full(candidates.shape, float("inf"), device=candidates.device)
    grid = grid.masked_scatter(candidates, scores)
    rank = grid.flatten(1).argsort(1).argsort(1).view(candidates.shape)
    return rank < to_device(count, rank.device).view(-1, 1, 1, 1)


def _gumbel(noise: Tensor) -> Tensor:
    return -(-noise.clamp(1e-9, 1 - 1e-7).log()).log()
