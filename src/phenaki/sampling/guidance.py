"""From a model and a text to ids: classifier-free guidance (2207.12598) and the critic, as callables for `decode`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.precision import autocast
from phenaki.generators import Components, Condition, Generator
from phenaki.generators.base import Over
from phenaki.sampling.config import GuidanceConfig, SamplingConfig
from phenaki.sampling.decoding import LogitsFn, ScoresFn, decode

OnStep = Callable[[int], None]
"""Called with the number of finished steps of a decoding."""


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
    negative, decoding = negative_text(components, sampling.guidance, len(ids)), sampling.decoding
    conditions = cfg_conditions(components.generator, text, sampling.guidance.uses_cfg, negative)
    logits_fns = cfg_logits_fns(components.generator, conditions, sampling.guidance.scales(decoding.steps))
    scores_fn = critic_scores_fn(components, text) if decoding.order == "critic" else None
    with autocast(ids.device, components.precision):  # around all steps: weights are cast once
        return decode(logits_fns, ids, known, components.generator.mask_id, decoding, rng, on_step, scores_fn)


def negative_text(components: Components, guidance: GuidanceConfig, samples: int) -> Text | None:
    """The negative prompt for B samples, if there is one."""
    return None if guidance.negative_prompt is None else components.encode_text(guidance.negative_prompt, samples)


@torch.no_grad()
def cfg_conditions(
    generator: Generator, text: Text, with_null: bool, negative: Text | None = None, actions: Tensor | None = None
) -> tuple[Condition, Condition]:
    """The condition of B prompts and, where `with_null`, that of both branches of guidance in one batch; else the same.
    Arguments are those of `cfg_branches`."""
    branches = cfg_branches(generator, text, with_null, negative, actions)
    return branches[0], branches[0].concatenate(branches)


@torch.no_grad()
def cfg_branches(
    generator: Generator,
    text: Text,
    with_null: bool,
    negative: Text | None = None,
    actions: Tensor | None = None,
    over: Over = "text",
) -> list[Condition]:
    """The condition of B prompts and, where `with_null`, that of the null branch of guidance.

    `negative`: a text of B prompts in place of the empty one; its length may differ. `actions`: float (B, t, A).
    `over`: what the null branch does not see.
    """
    with autocast(text.embeddings.device, generator.precision):
        condition = generator.condition(text, actions)
        if not with_null:
            return [condition]
        every = text.mask.new_ones(len(text.mask))
        hidden = {} if over == "text" else {"drop_actions": every}
        drop = None if over == "actions" or negative is not None else every
        if over != "actions" and negative is not None:
            text = negative
        null = generator.condition(text, actions, drop, **hidden)
        return [condition, null]


def cfg_logits_fns(
    generator: Generator, conditions: tuple[Condition, Condition], scales: Sequence[float], cache: Any = None
) -> list[LogitsFn]:
    """A `logits_fn` for each guidance scale: null + scale * (text - null), both branches in one batch.

    Scale 1 is the text alone, in one branch at half the cost; 0 ignores it. `conditions`: of `cfg_conditions`, with the
    null branch unless all scales are 1. `cache`: of as many branches as the second of them, that of the text first.
    """
    condition, both = conditions

    @torch.no_grad()
    def logits_fn(scale: float, ids: Tensor, where: Tensor) -> Tensor:
        with autocast(ids.device, generator.precision):
            if scale == 1:
                return generator.logits(ids, condition, where, cache=cache).float()
            twice = torch.cat((where, where + ids.numel()))
            logits = generator.logits(ids.repeat(2, 1, 1, 1), both, twice, cache=cache).float()
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
    with autocast(device, components.precision):
        condition = critic.condition_on(generator, text)

    def scores_fn(ids: Tensor) -> Tensor:
        with autocast(device, components.precision):
            return critic.scores(generator, ids, condition)

    return scores_fn
