"""Pixel metrics of two videos: PSNR, SSIM, sharpness, blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.errors import PhenakiError

MAX_PSNR = 100.0  # dB, of a perfect reconstruction, whose PSNR is infinite
_WINDOW, _SIGMA = 11, 1.5  # pixels (Wang et al., 2004)
_C1, _C2 = 0.01**2, 0.03**2


def psnr(error: Tensor) -> list[float]:
    """Squared errors (B, 3, T, H, W) of RGB in 0..1 -> peak signal-to-noise ratio of each clip in dB, at most 100."""
    return decibels(error.cpu().double().mean((1, 2, 3, 4))).tolist()


def decibels(mean_squared_error: Tensor) -> Tensor:
    """PSNR in dB, at most 100, of values in 0..1."""
    return -10 * mean_squared_error.clamp_min(10 ** (-MAX_PSNR / 10)).log10()


def edge_energy(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Mean squared differences of neighbouring pixels of videos (B, 3, T, H, W): float64 (3, B), of all, of those
    across a border of patches, and of those inside a patch."""
    across, inside = [], []
    for dim, size in zip((3, 4), patch[1:], strict=True):
        squared = video.float().diff(dim=dim).square().movedim(dim, -1)
        border = torch.arange(1, squared.shape[-1] + 1, device=video.device) % size == 0
        across.append(squared[..., border].flatten(1))
        inside.append(squared[..., ~border].flatten(1))
    kinds = torch.cat(across + inside, 1), torch.cat(across, 1), torch.cat(inside, 1)
    return torch.stack([kind.cpu().double().mean(1) for kind in kinds])


def sharpness(decoded: Tensor, video: Tensor) -> dict[str, float]:
    """From the `edge_energy` (3, N) of reconstructions and of originals. `gradient_energy`: 1 for edges as strong as
    the originals', less for blurred ones. `blockiness`: energy across borders of patches over that inside, relative to
    the originals'; 1 where no grid of patches shows. Left out where undefined, as in clips of one colour."""
    (made, made_across, made_inside), (real, across, inside) = decoded.mean(1).tolist(), video.mean(1).tolist()
    ratios = {"gradient_energy": (made, real), "blockiness": (made_across * inside, made_inside * across)}
    return {name: value / reference for name, (value, reference) in ratios.items() if reference > 0}


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of the frames of two videos (B, 3, T, H, W) in [0, 1] -> (B, T), 1 for equal frames.

    Per channel, in Gaussian windows of 11x11 pixels (sigma 1.5) with reflection padding, averaged, as torchmetrics
    computes it. Raises PhenakiError for smaller frames.
    """
    batch, channels, frames, height, width = a.shape
    if min(height, width) < _WINDOW:
        raise PhenakiError(
            f"SSIM needs frames of at least {_WINDOW}x{_WINDOW} pixels, its window, not {height}x{width}"
        )
    x, y = (video.float().reshape(-1, 1, height, width) for video in (a, b))
    mean_x, mean_y, xx, yy, xy = (_blurred(each) for each in (x, y, x * x, y * y, x * y))
    variances = xx - mean_x**2 + yy - mean_y**2
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    similarity = luminance * (2 * covariance + _C2) / (variances + _C2)
    return similarity.mean((1, 2, 3)).view(batch, channels, frames).mean(1)


def _blurred(images: Tensor) -> Tensor:
    """images (N, 1, H, W); matrix products are several times faster on a CPU than one-channel convolutions."""
    padded = F.pad(images, (_WINDOW // 2,) * 4, mode="reflect")
    rows, columns = (_windows(side).to(images.device) for side in images.shape[-2:])
    return rows @ padded @ columns.T


def _windows(side: int) -> Tensor:
    """Window weights (side, side + 10): of each pixel of a padded row, for each pixel of the row."""
    offsets = torch.arange(side + _WINDOW - 1) - torch.arange(side)[:, None] - _WINDOW // 2
    weights = (-(offsets**2) / (2 * _SIGMA**2)).exp() * (offsets.abs() <= _WINDOW // 2)
    return weights / weights.sum(1, keepdim=True)
