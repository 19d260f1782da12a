"""Losses of the second stage: cross-entropy on the masked ids (paper, section 2.2; MaskGIT, equation 2), and that of
critics (Token-Critic, 2209.04439)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from phenaki.core.errors import PhenakiError


@dataclass(frozen=True)
class GeneratorLossConfig:
    """`text_drop`: share of the samples, each drawn by itself, whose text is replaced by the null embedding.
    `first_frame_weight`: weight of the ids of the first frame against those of the others."""

    label_smoothing: float = 0.1
    text_drop: float = 0.1
    first_frame_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "text_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise PhenakiError(f"loss.{name} {getattr(self, name)} must be from 0 to below 1")
        if self.first_frame_weight <= 0:
            raise PhenakiError(f"loss.first_frame_weight {self.first_frame_weight} must be above 0")


def masked_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor, label_smoothing: float) -> Tensor:
    """Weighted mean of the cross-entropy. logits (M, V) of the M masked positions, targets int64 (M,), weight (M,)."""
    logits = logits.float()
    # As F.cross_entropy, whose smoothing is six times as slow on a CPU.
    target = logits.gather(-1, targets[:, None]).squeeze(-1)
    loss = logits.logsumexp(-1) - (1 - label_smoothing) * target - label_smoothing * logits.mean(-1)
    return (loss * weight).sum() / weight.sum()


def critic_loss(log_odds: Tensor, real: Tensor) -> Tensor:
    """Mean of the binary cross-entropy. log_odds (M,) that an id is real, real bool (M,), whether it is."""
    return F.binary_cross_entropy_with_logits(log_odds.float(), real.float())
