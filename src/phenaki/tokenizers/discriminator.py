"""The discriminator of the tokenizer, of frames or clips (after StyleGAN 2), and its losses.

Shapes: B batch, T frames, H, W pixels, C channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import is_on_cpu, to_device

AdversarialKind = Literal["hinge", "logistic"]

_BLUR = (1.0, 3.0, 3.0, 1.0)  # StyleGAN's filter before each downsampling
_SLOPE, _GAIN = 0.2, 2**0.5
_MAX_CHANNELS = 512


@configclass
class DiscriminatorConfig:
    """Settings of the discriminator, used if `loss.adversarial` is above 0 (paper, section 2.1: StyleGAN's)."""

    input: Literal["frames", "clips"] = "frames"
    """Single frames, or whole clips by 3D convolutions."""
    width: int = bounded(64, at_least=1)
    """Channels before the first block; each block doubles them, up to 512."""
    blocks: int = bounded(5, at_least=1)
    """Each halves rows and columns, and for clips the frames."""
    minibatch_stddev: bool = False
    loss: AdversarialKind = "logistic"
    """`logistic` is the non-saturating GAN loss."""
    penalty: float = bounded(10.0, at_least=0)
    """Weight of the gradient penalty on real videos (R1, 1801.04406); 0: none."""
    penalty_every: int = bounded(16, at_least=1)
    """Steps between penalties; each is scaled up accordingly."""
    start: int = bounded(0, at_least=0)
    """First step with adversarial training."""
    adaptive: bool = False
    """Scale the adversarial loss so that its gradient at the last layer is as long as that of all other losses (VQGAN,
    2012.09841)."""
    lr: float = bounded(1e-4, above=0)
    betas: tuple[float, float] = bounded((0.0, 0.99), at_least=0, below=1)
    """Everything else follows the tokenizer's optimizer."""

    def check_size(self, height: int, width: int) -> None:
        """Raise PhenakiError for frames too small for this many blocks."""
        if min(height, width) < 2**self.blocks:
            largest = min(height, width).bit_length() - 1
            raise PhenakiError(
                f"discriminator.blocks {self.blocks} downsample frames of {height}x{width} pixels to less than one: "
                f"use at most {largest}"
            )


class Discriminator(nn.Module):
    """Video float (B, 3, T, H, W) in [0, 1] -> logits float32 of being real, (B T,) for frames or (B,) for clips.

    StyleGAN 2's residual network (1912.04958) without equalized learning rate, and with mean pooling instead of its
    flattened last layer, so that clips may have any length and size.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        clips = config.input == "clips"
        widths = [min(_MAX_CHANNELS, config.width << block) for block in range(config.blocks + 1)]
        self.from_pixels = Convolution(3, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(before, after, clips) for before, after in pairwise(widths)))
        self.last = Convolution(widths[-1] + config.minibatch_stddev, widths[-1], 3, clips)
        self.score = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.LeakyReLU(_SLOPE), nn.Linear(widths[-1], 1))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
            else:
                nn.init.zeros_(parameter)

    def forward(self, video: Tensor) -> Tensor:
        x = self.blocks(_activated(self.from_pixels, video.transpose(1, 2) * 2 - 1))
        if self.config.minibatch_stddev:
            x = torch.cat((x, _batch_stddev(x)), dim=2)
        x = _activated(self.last, x).mean((3, 4))
        x = x.flatten(0, 1) if self.config.input == "frames" else x.mean(1)
        return self.score(x).squeeze(-1).float()


class ResidualBlock(nn.Module):
    """(B, T, C, H, W) -> (B, T', C', H', W') at half the size, rounded up, for clips in time too."""

    def __init__(self, before: int, after: int, clips: bool):
        super().__init__()
        self.axes = (1, 3, 4) if clips else (3, 4)
        self.first = Convolution(before, before, 3, clips)
        self.second = Convolution(before, after, 3, clips)
        self.skip = Convolution(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner, skipped = _downsample(_activated(self.first, x), self.axes), _downsample(x, self.axes)
        if is_on_cpu(x):
            return (_activated(self.second, inner) + self.skip(skipped)) / _GAIN
        return F.leaky_relu(self.second(inner), _SLOPE) + self.skip(skipped, 1 / _GAIN)  # the same


class Convolution(nn.Module):
    """(B, T, C, H, W) -> (B, T, C', H, W) per frame or, with `time`, over each frame and its two neighbours.

    Neighbours are stacked as channels: torch's bfloat16 Conv3d on CPUs has wrong gradients for two frames
    (docs/training.md).
    """

    def __init__(self, before: int, after: int, kernel: int, time: bool = False):
        super().__init__()
        self.time = time
        self.frames = nn.Conv2d(3 * before if time else before, after, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """gain: factor of the output, which costs less in the weights."""
        B, T = x.shape[:2]
        if self.time:
            padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
            x = torch.cat([padded[:, shift : shift + T] for shift in range(3)], dim=2)
        x = x.flatten(0, 1)
        if not is_on_cpu(x):  # as the kernels of tensor cores want it; what follows keeps the layout
            x = x.contiguous(memory_format=torch.channels_last)
        if gain == 1:
            return self.frames(x).unflatten(0, (B, T))
        weight, bias = gain * self.frames.weight, gain * self.frames.bias
        return F.conv2d(x, weight, bias, padding=self.frames.padding).unflatten(0, (B, T))


def _activated(convolution: Convolution, x: Tensor) -> Tensor:
    """The gain keeps the variance; on a GPU, where bytes are what costs, the weights take it."""
    if is_on_cpu(x):
        return F.leaky_relu(convolution(x), _SLOPE) * _GAIN
    return F.leaky_relu(convolution(x, _GAIN), _SLOPE)


def _downsample(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Blur and keep every second position of each axis longer than 1."""
    if not is_on_cpu(x) and min(x.shape[3:]) > 1:
        x, axes = _downsample_rows(x), axes[:-2]
    for axis in axes:
        if x.shape[axis] > 1:
            x = _downsample_axis(x, axis)
    return x


def _downsample_rows(x: Tensor) -> Tensor:
    """Rows and columns of (B, T, C, H, W) at once, as a convolution of each channel: one kernel on a GPU."""
    B, T, C, H, W = x.shape
    taps = torch.tensor(_BLUR, dtype=x.dtype) / sum(_BLUR)
    kernel = to_device(taps[:, None] * taps, x.device).expand(C, 1, -1, -1)
    odd = (H % 2, W % 2)
    padded = F.pad(x.flatten(0, 1), (1, 1 + odd[1], 1, 1 + odd[0]), mode="replicate")
    return F.conv2d(padded, kernel, stride=2, groups=C).unflatten(0, (B, T))


def _downsample_axis(x: Tensor, axis: int) -> Tensor:
    """As a sum of shifted slices, whose second derivative (for the penalty) is cheap too."""
    size = x.shape[axis]
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
    padded = torch.cat((first, x, last, last), dim=axis)  # the second copy of the last is for odd sizes
    half = (size + 1) // 2
    taps = [padded.narrow(axis, shift, 2 * half - 1).unfold(axis, 1, 2).squeeze(-1) for shift in range(len(_BLUR))]
    return sum(weight / sum(_BLUR) * tap for weight, tap in zip(_BLUR, taps, strict=True))


def _batch_stddev(x: Tensor) -> Tensor:
    """Standard deviation over the batch (1710.10196): one value, as a channel (B, T, 1, H, W)."""
    B, T, _, H, W = x.shape
    spread = (x.float().var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.to(x.dtype).expand(B, T, 1, H, W)


def adversarial_loss(fake: Tensor, kind: AdversarialKind) -> Tensor:
    """Generator-side adversarial loss, given the logits (N,) of reconstructions."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: AdversarialKind) -> Tensor:
    """Discriminator loss, given the logits (N,) of real and of reconstructed videos."""
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(discriminator: Discriminator, video: Tensor) -> Tensor:
    """R1 penalty (1801.04406): half the squared gradient at real videos (B, 3, T, H, W), mean over logits."""
    video = video.detach().requires_grad_()
    scores = discriminator(video)
    (gradient,) = torch.autograd.grad(scores.sum(), video, create_graph=True)
    return gradient.square().sum() / (2 * len(scores))


def adaptive_weight(others: Tensor, adversarial: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """Ratio of the gradient norms of all other losses and of the adversarial loss, at the decoder's last layer (VQGAN,
    2012.09841, equation 7). At most 10,000; detached."""
    norms = [
        torch.cat([g.flatten() for g in gradients if g is not None]).norm()
        for loss in (others, adversarial)
        for gradients in [torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)]
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
