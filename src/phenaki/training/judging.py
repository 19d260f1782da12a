"""What a critic learns, beside its generator or for one that is trained (Token-Critic, 2209.04439, section 3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from phenaki.conditioning import Text
from phenaki.generators import Generator
from phenaki.generators.critic import Critic, CriticConfig, scores
from phenaki.generators.losses import critic_loss
from phenaki.sampling import SamplingConfig
from phenaki.sampling.decoding import draw
from phenaki.training.optim import OptimizerConfig, Optimizers


def own_optimizers(critic: Critic, config: CriticConfig, optimizer: OptimizerConfig, steps: int) -> Optimizers:
    """As the generator's but for the learning rate. Of a self-critic they have the head; the features it stands on are
    the generator's."""
    return Optimizers([critic], replace(optimizer, lr=config.lr or optimizer.lr), steps)


def judging_loss(
    critic: Critic,
    generator: Generator,
    text: Text,
    dropped: Tensor,
    ids: Tensor,
    masked: Tensor,
    free: Tensor,
    logits: Tensor,
    temperature: float,
    rng: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """The critic's loss, and figures to record; to be called in `autocast`, as all forward passes are.

    The masked ids are drawn from the generator's logits. Those that come out as they were are real, as are all that
    were not masked; given ids, which decoding never asks about, do not count.

    Args:
        text: as the text encoder gives it. dropped: bool (B,), where it is hidden.
        ids: int64 (B, t, h, w). masked, free: bool, same shape; of the M masked ones are `logits` (M, V), which get no
            gradient, and `temperature` divides them.
        rng: on any device.
    """
    uniform = torch.rand(len(logits), 1, generator=rng, device=rng.device).to(ids.device)
    drawn, _ = draw(logits.detach(), uniform, temperature, SamplingConfig())
    filled = ids.masked_scatter(masked, drawn)
    log_odds = scores(critic, generator, text, dropped)(filled)[free]
    real = (filled == ids)[free]
    loss = critic_loss(log_odds, real)
    return loss, {"critic_loss": loss.item(), "critic_accuracy": accuracy(log_odds, real)}


def accuracy(log_odds: Tensor, real: Tensor) -> float:
    """Mean of the shares of real ids, and of false ones, that are told (0.5 by chance). log_odds (M,), real bool (M,);
    a share of none is 1."""
    right = (log_odds > 0) == real
    shares = [right[which].float().mean().item() if which.any() else 1.0 for which in (real, ~real)]
    return sum(shares) / 2
