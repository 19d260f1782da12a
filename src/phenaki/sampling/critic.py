"""What the sampler asks a critic: which of the drawn ids are to be drawn anew (Token-Critic, 2209.04439, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.precision import autocast
from phenaki.generators.base import Generator
from phenaki.generators.critic import Critic, scores
from phenaki.sampling.decoding import SamplingConfig, ScoresFn


@torch.no_grad()
def judged(critic: Critic | None, generator: Generator, text: Text, config: SamplingConfig) -> ScoresFn | None:
    """What `decode` is given as its critic: B prompts' `text`, as `steered` takes it; None for an order without one."""
    if critic is None or config.order != "critic":
        return None
    device = text.embeddings.device
    with autocast(device):
        scores_fn = scores(critic, generator, text, torch.zeros(len(text.mask), dtype=torch.bool, device=device))

    def judge(ids: Tensor) -> Tensor:
        with autocast(device):
            return scores_fn(ids)

    return judge
