"""Losses of the tokenizer, as weighted terms by name. The adversarial loss is in `discriminator.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.perceptual import PerceptualNetworks
from phenaki.tokenizers.base import Reconstruction, Tokenizer
from phenaki.tokenizers.patches import patchify
from phenaki.tokenizers.quantizers import Quantized


@configclass
class TokenizerLossConfig:
    """Weights of the loss terms (paper, section 2.1); 0 disables a term."""

    l2: float = bounded(1.0, at_least=0)
    l1: float = bounded(0.0, at_least=0)
    gradient: float = bounded(0.0, at_least=0)
    """L1 distance of the differences of neighbouring pixels, for sharper edges."""
    texture: float = bounded(0.0, at_least=0)
    """L1 distance of the local strength of those differences, over 4 x 4 pixels: as much texture as in the video, where
    the code does not say how it lies."""
    quantizer: float = bounded(1.0, at_least=0)
    """Codebook and commitment loss; the latter is also scaled by `tokenizer.quantizer.commitment`."""
    entropy: float = bounded(0.1, at_least=0)
    """Entropy loss, for quantizers that have one."""
    lpips: float = bounded(0.0, at_least=0)
    """Distance of VGG features, per frame."""
    i3d: float = bounded(0.0, at_least=0)
    """Squared distance of I3D features, for clips of more than one frame."""
    adversarial: float = bounded(0.0, at_least=0)
    """Generator-side adversarial loss (`discriminator.*`)."""
    token_consistency: float = bounded(0.0, at_least=0)
    """Pulls neighbouring patches (in time, rows, columns) with equal pixels to equal codes. Without it the ids of a
    static background change from frame to frame, and the generator has to model that noise (docs/log.md)."""
    first_frame_fraction: float = bounded(0.25, at_least=0, at_most=1)
    """Fraction of the pixel loss on the first frame. It is one frame of T with patches of its own, and learns slowest
    under a plain mean (docs/log.md)."""
    frames: int = bounded(0, at_least=0)
    """Random frames per clip and step for LPIPS and a frame discriminator; 0: all."""
    lpips_weights: str = ""
    """File or folder of the weights; empty: the cache."""
    i3d_weights: str = ""

    def __post_init__(self) -> None:
        if not (self.l2 or self.l1 or self.lpips):
            raise PhenakiError("loss.l2, loss.l1 and loss.lpips are all 0, so nothing trains the pixels: raise one")


def pixel_losses(reconstruction: Tensor, video: Tensor, config: TokenizerLossConfig) -> dict[str, Tensor]:
    """Weighted terms by name, float32 scalars. reconstruction, video: (B, 3, T, H, W), the latter in [0, 1]."""
    error = reconstruction.float() - video.float()
    losses = {}
    if config.l2:
        losses["l2"] = config.l2 * _weighted_mean(error.square(), config.first_frame_fraction)
    if config.l1:
        losses["l1"] = config.l1 * _weighted_mean(error.abs(), config.first_frame_fraction)
    if config.gradient:
        rows, columns = (error.diff(dim=dim).abs() for dim in (3, 4))
        fraction = config.first_frame_fraction
        losses["gradient"] = config.gradient * (_weighted_mean(rows, fraction) + _weighted_mean(columns, fraction))
    if config.texture:
        errors = ((_texture(reconstruction, dim) - _texture(video, dim)).abs() for dim in (3, 4))
        losses["texture"] = config.texture * sum(_weighted_mean(each, config.first_frame_fraction) for each in errors)
    return losses


def code_losses(
    out: Reconstruction, video: Tensor, tokenizer: Tokenizer, config: TokenizerLossConfig
) -> dict[str, Tensor]:
    """Weighted terms of the quantizer and `token_consistency` by name, float32 scalars; video as in `pixel_losses`."""
    commitment = tokenizer.config.quantizer.commitment
    weights = {"codebook": config.quantizer, "commitment": config.quantizer * commitment, "entropy": config.entropy}
    terms = tokenizer.quantizer.losses(out.quantized)
    losses = {name: weights[name] * term for name, term in terms.items() if weights[name]}
    if config.token_consistency:
        consistency = _token_consistency(out.quantized, video, tokenizer.patch)
        losses["token_consistency"] = config.token_consistency * consistency
    return losses


def perceptual_losses(
    reconstruction: Tensor, video: Tensor, frames: Tensor, networks: PerceptualNetworks, config: TokenizerLossConfig
) -> dict[str, Tensor]:
    """Weighted terms by name, float32 scalars. frames: int64 (k,), those for LPIPS; videos as in `pixel_losses`."""
    losses = {}
    if networks.lpips is not None:
        distance = networks.lpips(reconstruction[:, :, frames], video[:, :, frames]).mean()
        losses["lpips"] = config.lpips * distance
    if networks.i3d is not None and video.shape[2] > 1:
        losses["i3d"] = config.i3d * F.mse_loss(networks.i3d.features(reconstruction), networks.i3d.features(video))
    return losses


def sample_frames(count: int, config: TokenizerLossConfig, rng: torch.Generator) -> Tensor:
    """Indices int64 (k,) of the frames, of `count`, on which a step computes its per-frame losses."""
    if not config.frames:
        return torch.arange(count)
    return torch.randperm(count, generator=rng)[: config.frames]


def _texture(video: Tensor, dim: int) -> Tensor:
    """Root mean square, over squares of 4 pixels, of the differences of a video (B, 3, T, H, W) along rows or columns:
    (B, 3, T, h, w)."""
    squares = video.float().diff(dim=dim).square().flatten(0, 2)
    return (F.avg_pool2d(squares, 4, ceil_mode=True) + 1e-6).sqrt().unflatten(0, video.shape[:3])


def _weighted_mean(error: Tensor, first: float) -> Tensor:
    """Mean over pixels (B, 3, T, H, W), with the fraction `first` on the first frame; all of it for single frames."""
    if error.shape[2] == 1:
        return error.mean()
    return torch.lerp(error[:, :, 1:].mean(), error[:, :, :1].mean(), first)


def _token_consistency(quantized: Quantized, video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Mean squared distance of codes (B, t, h, w, d) before rounding to the rounded codes of neighbours with equal
    pixels: it moves them to the middle of one code, where noise does not flip them to another."""
    before, after = quantized.before, quantized.after.detach()
    first = patchify(video[:, :, :1], (1, *patch[1:]))
    pixels = first.repeat(1, 1, 1, 1, patch[0])  # as a patch of p equal frames
    if video.shape[2] > 1:
        pixels = torch.cat((pixels, patchify(video[:, :, 1:], patch)), dim=1)
    distances, counts = [], []
    for axis in (1, 2, 3):
        pairs = before.shape[axis] - 1
        equal = (pixels.narrow(axis, 0, pairs) == pixels.narrow(axis, 1, pairs)).all(-1)
        for one, other in ((0, 1), (1, 0)):
            distance = (before.narrow(axis, one, pairs) - after.narrow(axis, other, pairs)).square().mean(-1)
            distances.append((distance * equal).sum())
            counts.append(equal.sum())
    return torch.stack(distances).sum() / torch.stack(counts).sum().clamp_min(1)
