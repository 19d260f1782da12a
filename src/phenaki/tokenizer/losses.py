"""Losses of the first stage, each a term by name; the training step adds them up with the weights of the recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
