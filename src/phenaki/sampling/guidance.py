"""From a model and a text to ids: classifier-free guidance (2207.12598) and the critic, as callables for `decode`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.precision import autocast
from phenaki.generators import Components, Generator
from phenaki.sampling.config import SamplingConfig
from phenaki.sampling.decoding import LogitsFn, ScoresFn, decode

OnStep = Callable[[int], None]


@torch.no_grad()
def sample_ids(
    components: Components,
    text: Text,
    ids: Tensor,
    known: Tensor,
    sampling: SamplingConfig,
    rng: torch.Generator,
    on_step: OnStep | None = None,
) -> Tensor:
    """Complete ids int64 (B, t, h, w) under a text of B prompts; arguments as of `decode`."""
    negative, decoding = None, sampling.decoding
    if sampling.guidance.negative_prompt is not None:
        negative = components.encode_text(sampling.guidance.negative_prompt, len(ids))
    scales = sampling.guidance.scales(decoding.steps)
    logits_fns = cfg_logits_fns(components.generator, text, scales, negative)
    scores_fn = critic_scores_fn(components, text) if decoding.order == "critic" else None
    with autocast(ids.device):  # around all steps, so that weights are cast once
        return decode(logits_fns, ids, known, components.generator.mask_id, decoding, rng, on_step, scores_fn)


@torch.no_grad()
def cfg_logits_fns(
    generator: Generator, text: Text, scales: Sequence[float], negative: Text | None = None
) -> list[LogitsFn]:
    """A `logits_fn` for each guidance scale: null + scale * (text - null), both branches in one batch.

    Scale 1 is the text alone, in one branch at half the cost; 0 ignores it. `negative`: a text of B prompts in place of
    the null branch; its length may differ. Keys and values of the texts are computed once for all.
    """
    device = text.embeddings.device
    with autocast(device):
        condition = both = generator.condition(text)
        if any(scale != 1 for scale in scales):
            every = torch.ones(len(text.mask), dtype=torch.bool, device=device)
            null = generator.condition(text, drop=every) if negative is None else generator.condition(negative)
            both = condition.concatenate([condition, null])

    def logits_fn(scale: float, ids: Tensor, where: Tensor) -> Tensor:
        with autocast(device):
            if scale == 1:
                return generator.logits(ids, condition, where).float()
            twice = torch.cat((where, where + ids.numel()))
            logits = generator.logits(ids.repeat(2, 1, 1, 1), both, twice).float()
        conditional, unconditional = logits.chunk(2)
        return (conditional - unconditional).mul_(scale).add_(unconditional)

    return [partial(logits_fn, scale) for scale in scales]


@torch.no_grad()
def critic_scores_fn(components: Components, text: Text) -> ScoresFn | None:
    """The critic's scores beside a text, as `decode` takes them; None for a model without a critic."""
    critic, generator = components.critic, components.generator
    if critic is None:
        return None
    device = text.embeddings.device
    with autocast(device):
        condition = critic.condition_on(generator, text)

    def scores_fn(ids: Tensor) -> Tensor:
        with autocast(device):
            return critic.scores(generator, ids, condition)

    return scores_fn
