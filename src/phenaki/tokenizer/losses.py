"""Losses of the first stage, each a term by name; the training step adds them up with the weights of the recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phenaki.errors import PhenakiError
from phenaki.tokenizer.base import Reconstruction
from phenaki.tokenizer.quantize import FSQ, Codebook


@dataclass(frozen=True)
class TokenizerLossConfig:
    """Weights of the terms (paper, section 2.1), and the first frame's share of the pixel terms.

    The first frame is one of T, with patches of its own: left at its natural share it learns slowest (docs/log.md).
    """

    l2: float = 1.0
    l1: float = 0.0
    quantizer: float = 1.0
    first_frame_share: float = 0.25

    def __post_init__(self) -> None:
        for name in ("l2", "l1", "quantizer"):
            if getattr(self, name) < 0:
                raise PhenakiError(f"loss.{name} {getattr(self, name)} must not be below 0")
        if not 0 <= self.first_frame_share <= 1:
            raise PhenakiError(f"loss.first_frame_share {self.first_frame_share} must be from 0 to 1")


def tokenizer_losses(
    out: Reconstruction, video: Tensor, quantizer: FSQ | Codebook, config: TokenizerLossConfig
) -> dict[str, Tensor]:
    """Weighted loss terms by name, float32 scalars, to be summed. video: (B, 3, T, H, W) in [0, 1]."""
    error = out.video.float() - video.float()
    return {
        "l2": config.l2 * _share_first(error.square(), config.first_frame_share),
        "l1": config.l1 * _share_first(error.abs(), config.first_frame_share),
        "quantizer": config.quantizer * quantizer.loss(out.quantized),
    }


def _share_first(error: Tensor, share: float) -> Tensor:
    """Mean over pixels with the given share for the first frame; a single frame is all there is."""
    if error.shape[2] == 1:
        return error.mean()
    return torch.lerp(error[:, :, 1:].mean(), error[:, :, :1].mean(), share)
