"""Losses of the first stage, each a term by name; the training step adds them up with the weights of the recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phenaki.errors import PhenakiError
from phenaki.tokenizer.base import Reconstruction, Tokenizer
from phenaki.tokenizer.cvivit import patchify
from phenaki.tokenizer.quantize import Quantized


@dataclass(frozen=True)
class TokenizerLossConfig:
    """Weights of the terms (paper, section 2.1), and the first frame's share of the pixel terms.

    The first frame is one of T, with patches of its own: left at its natural share it learns slowest (docs/log.md).
    """

    l2: float = 1.0
    l1: float = 0.0
    quantizer: float = 1.0
    alike: float = 0.0
    """Weight of what pulls neighbouring patches (in time, rows, columns) of equal pixels to equal codes. Without it a
    still background changes its ids from step to step, which the second stage then has to learn (docs/log.md)."""
    first_frame_share: float = 0.25

    def __post_init__(self) -> None:
        for name in ("l2", "l1", "quantizer", "alike"):
            if getattr(self, name) < 0:
                raise PhenakiError(f"loss.{name} {getattr(self, name)} must not be below 0")
        if not 0 <= self.first_frame_share <= 1:
            raise PhenakiError(f"loss.first_frame_share {self.first_frame_share} must be from 0 to 1")


def tokenizer_losses(
    out: Reconstruction, video: Tensor, tokenizer: Tokenizer, config: TokenizerLossConfig
) -> dict[str, Tensor]:
    """Weighted loss terms by name, float32 scalars, to be summed. video: (B, 3, T, H, W) in [0, 1]."""
    error = out.video.float() - video.float()
    zero = error.new_zeros(())
    return {
        "l2": config.l2 * _share_first(error.square(), config.first_frame_share),
        "l1": config.l1 * _share_first(error.abs(), config.first_frame_share),
        "quantizer": config.quantizer * tokenizer.quantizer.loss(out.quantized),
        "alike": config.alike * _unlikeness(out.quantized, video, tokenizer.patch) if config.alike else zero,
    }


def _share_first(error: Tensor, share: float) -> Tensor:
    """Mean over pixels with the given share for the first frame; a single frame is all there is."""
    if error.shape[2] == 1:
        return error.mean()
    return torch.lerp(error[:, :, 1:].mean(), error[:, :, :1].mean(), share)


def _unlikeness(quantized: Quantized, video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Mean squared distance of codes (B, t, h, w, d) before rounding to what their neighbours of equal pixels were
    rounded to: so they come to lie in the middle of one code, where noise does not turn them into another."""
    before, after = quantized.before, quantized.after.detach()
    first = patchify(video[:, :, :1], (1, *patch[1:]))
    pixels = first.repeat(1, 1, 1, 1, patch[0])  # as still as a patch can be
    if video.shape[2] > 1:
        pixels = torch.cat((pixels, patchify(video[:, :, 1:], patch)), dim=1)
    distances, equals = [], []
    for axis in (1, 2, 3):
        pairs = before.shape[axis] - 1
        equal = (pixels.narrow(axis, 0, pairs) == pixels.narrow(axis, 1, pairs)).all(-1)
        for one, other in ((0, 1), (1, 0)):
            distance = (before.narrow(axis, one, pairs) - after.narrow(axis, other, pairs)).square().mean(-1)
            distances.append((distance * equal).sum())
            equals.append(equal.sum())
    return torch.stack(distances).sum() / torch.stack(equals).sum().clamp_min(1)
