"""Losses of the first stage, each a term by name; the training step adds them up with the weights of the recipe.

The adversarial one is in `discriminator.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.perceptual import PerceptualNetworks
from phenaki.tokenizers.base import Reconstruction, Tokenizer
from phenaki.tokenizers.cvivit import patchify
from phenaki.tokenizers.quantizers import Quantized


@dataclass(frozen=True)
class TokenizerLossConfig:
    """Weights of the terms (paper, section 2.1), and the first frame's share of the pixel terms. 0 leaves a term out.

    The first frame is one of T, with patches of its own: left at its natural share it learns slowest (docs/log.md).
    """

    l2: float = 1.0
    l1: float = 0.0
    quantizer: float = 1.0
    """Of codebook and commitment loss, the latter with `tokenizer.quantizer.commitment` besides."""
    entropy: float = 0.1
    """Of the entropy term, where the quantizer has one."""
    lpips: float = 0.0
    """Of the distance of VGG features, frame by frame."""
    i3d: float = 0.0
    """Of the squared distance of I3D features, for clips of more than one frame."""
    adversarial: float = 0.0
    """Of what the discriminator says (`discriminator.*`)."""
    token_consistency: float = 0.0
    """Weight of what pulls neighbouring patches (in time, rows, columns) of equal pixels to equal codes. Without it a
    still background changes its ids from step to step, which the second stage then has to learn (docs/log.md)."""
    first_frame_fraction: float = 0.25
    frames: int = 0
    """Frames of each clip, drawn in each step, that LPIPS and a discriminator of frames see; 0 shows them all."""
    lpips_weights: str = ""
    """File or folder with the weights; empty for the cache."""
    i3d_weights: str = ""

    def __post_init__(self) -> None:
        for name in ("l2", "l1", "quantizer", "entropy", "lpips", "i3d", "adversarial", "token_consistency", "frames"):
            if not getattr(self, name) >= 0:
                raise PhenakiError(f"loss.{name} {getattr(self, name)} must not be below 0")
        if not (self.l2 or self.l1 or self.lpips):
            raise PhenakiError("loss.l2, loss.l1 and loss.lpips are all 0, and nothing teaches the pixels: raise one")
        if not 0 <= self.first_frame_fraction <= 1:
            raise PhenakiError(f"loss.first_frame_fraction {self.first_frame_fraction} must be from 0 to 1")


def pixel_losses(made: Tensor, video: Tensor, config: TokenizerLossConfig) -> dict[str, Tensor]:
    """Weighted terms by name, float32 scalars. made, video: (B, 3, T, H, W), the latter in [0, 1]."""
    error = made.float() - video.float()
    losses = {}
    if config.l2:
        losses["l2"] = config.l2 * _share_first(error.square(), config.first_frame_fraction)
    if config.l1:
        losses["l1"] = config.l1 * _share_first(error.abs(), config.first_frame_fraction)
    return losses


def code_losses(
    out: Reconstruction, video: Tensor, tokenizer: Tokenizer, config: TokenizerLossConfig
) -> dict[str, Tensor]:
    """Weighted terms by name, float32 scalars: the quantizer's, and `token_consistency`. video: as `pixel_losses`."""
    commitment = tokenizer.config.quantizer.commitment
    weights = {"codebook": config.quantizer, "commitment": config.quantizer * commitment, "entropy": config.entropy}
    terms = tokenizer.quantizer.losses(out.quantized)
    losses = {name: weights[name] * term for name, term in terms.items() if weights[name]}
    if config.token_consistency:
        losses["token_consistency"] = config.token_consistency * _unlikeness(out.quantized, video, tokenizer.patch)
    return losses


def perceptual_losses(
    made: Tensor, video: Tensor, frames: Tensor, networks: PerceptualNetworks, config: TokenizerLossConfig
) -> dict[str, Tensor]:
    """Weighted terms by name, float32 scalars. frames int64 (k,): those that LPIPS sees. The rest as `pixel_losses`."""
    losses = {}
    if networks.lpips is not None:
        losses["lpips"] = config.lpips * networks.lpips(made[:, :, frames], video[:, :, frames]).mean()
    if networks.i3d is not None and video.shape[2] > 1:
        losses["i3d"] = config.i3d * F.mse_loss(networks.i3d.features(made), networks.i3d.features(video))
    return losses


def seen_frames(count: int, config: TokenizerLossConfig, rng: torch.Generator) -> Tensor:
    """The frames, int64 (k,), of clips of `count` that losses of single frames see in a step."""
    if not config.frames:
        return torch.arange(count)
    return torch.randperm(count, generator=rng)[: config.frames]


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
