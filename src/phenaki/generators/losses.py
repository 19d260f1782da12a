"""Losses of the second stage: cross-entropy on the masked ids (paper, section 2.2; MaskGIT, equation 2), binary
cross-entropy for critics (Token-Critic, 2209.04439)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.generators.base import Over
from phenaki.nn.block import Block


@configclass
class GeneratorLossConfig:
    """`text_drop`: probability, for each sample, that its text is replaced by the null embedding; `action_drop`: that
    its actions are hidden. `first_frame_weight`: weight of the first frame's ids relative to the others.

    `history_noise`: of a causal generator, up to which fraction of the ids of earlier latent frames is replaced by
    random ones, in half of the clips: it learns to go on from its own mistakes.

    `distilled_guidance`: the targets are the logits of the model that the run begins with at this guidance scale (On
    distillation of guided diffusion models, 2210.03142), so that the trained one needs no second branch; 0: the ids.
    `distilled_over`: what that guidance is over, "text", "actions" or "both".
    """

    label_smoothing: float = bounded(0.1, at_least=0, below=1)
    text_drop: float = bounded(0.1, at_least=0, at_most=1)
    action_drop: float = bounded(0.1, at_least=0, at_most=1)
    history_noise: float = bounded(0.0, at_least=0, below=1)
    distilled_guidance: float = bounded(0.0, at_least=0)
    distilled_over: Over = "text"
    first_frame_weight: float = bounded(1.0, above=0)

    def __post_init__(self) -> None:
        if self.distilled_over != "text" and not self.distilled_guidance:
            raise PhenakiError(
                f"distilled_over '{self.distilled_over}' has no effect at distilled_guidance 0: set a guidance scale"
            )


def masked_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor, label_smoothing: float) -> Tensor:
    """Weighted mean of the cross-entropy. logits (M, V) of the M masked positions, targets int64 (M,), weight (M,)."""
    logits = logits.float()
    # Equal to F.cross_entropy, whose label smoothing is six times slower on a CPU.
    target = logits.gather(-1, targets[:, None]).squeeze(-1)
    loss = logits.logsumexp(-1) - (1 - label_smoothing) * target - label_smoothing * logits.mean(-1)
    return (loss * weight).sum() / weight.sum()


class MaskedCrossEntropy(Block):
    """`masked_cross_entropy` as a unit that training compiles, as large as the logits are."""

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor, label_smoothing: float) -> Tensor:
        return masked_cross_entropy(logits, targets, weight, label_smoothing)


def distillation_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy with the distribution of other logits, target (M, V), of weight (M,)."""
    loss = -(target.float().softmax(-1) * logits.float().log_softmax(-1)).sum(-1)
    return (loss * weight).sum() / weight.sum()


def critic_loss(log_odds: Tensor, real: Tensor) -> Tensor:
    """Mean binary cross-entropy. log_odds (M,) that an id is real; real bool (M,), whether it is."""
    return F.binary_cross_entropy_with_logits(log_odds.float(), real.float())
