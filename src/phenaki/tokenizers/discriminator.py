"""The adversary of the first stage: a StyleGAN-like discriminator of frames or of clips, and its losses.

Shapes: B batch, T frames, H, W pixels, C channels. A frame is a clip of one frame throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError

AdversarialKind = Literal["hinge", "logistic"]

_BLUR = (1.0, 3.0, 3.0, 1.0)  # StyleGAN's filter before each halving
_SLOPE = 0.2
_MOST_CHANNELS = 512


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The adversary of a tokenizer whose `loss.adversarial` is above 0 (paper, section 2.1: StyleGAN's).

    `sees`: single frames, or whole clips by 3D convolutions. Each of `blocks` halves rows and columns (of clips the
    frames too) and doubles the channels, from `width` up to 512. `loss`: logistic is the non-saturating one of GANs.
    `penalty`: weight of the squared gradient at real pixels (R1, 1801.04406), taken every `penalty_every` steps and
    weighted up by as much; 0 is none. `start`: the step from which on it learns and is heard. `adaptive`: what the
    tokenizer hears is scaled so that its gradient at the last layer is as long as that of all other losses (VQGAN,
    2012.09841). `lr` and `betas` are its own; all else follows the tokenizer's optimizer.
    """

    input: Literal["frames", "clips"] = "frames"
    width: int = 64
    blocks: int = 5
    minibatch_stddev: bool = False
    loss: AdversarialKind = "logistic"
    penalty: float = 10.0
    penalty_every: int = 16
    start: int = 0
    adaptive: bool = False
    lr: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.99)

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("blocks", 1), ("penalty_every", 1), ("start", 0), ("penalty", 0)):
            if not getattr(self, name) >= least:
                raise PhenakiError(f"discriminator.{name} {getattr(self, name)} must be {least} or more")
        if not self.lr > 0:
            raise PhenakiError(f"discriminator.lr {self.lr} must be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise PhenakiError(f"discriminator.betas {self.betas} must be from 0 to below 1")

    def check_size(self, height: int, width: int) -> None:
        """Raise PhenakiError for frames that are gone before the last block."""
        if min(height, width) < 2**self.blocks:
            most = min(height, width).bit_length() - 1
            raise PhenakiError(
                f"discriminator.blocks {self.blocks} halve frames of {height}x{width} pixels to less than one: "
                f"take at most {most}"
            )


class Discriminator(nn.Module):
    """Video float (B, 3, T, H, W) in [0, 1] -> scores float32, above 0 for what looks real: (B T,) frames, (B,) clips.

    StyleGAN 2's residual network (1912.04958) without its equalised learning rate. In place of its flattened last layer
    is a mean over what is left of the positions, so that clips may have any length and size.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        clips = config.input == "clips"
        widths = [min(_MOST_CHANNELS, config.width << block) for block in range(config.blocks + 1)]
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
        x = self.blocks(_active(self.from_pixels(video.transpose(1, 2) * 2 - 1)))
        if self.config.minibatch_stddev:
            x = torch.cat((x, _batch_stddev(x)), dim=2)
        x = _active(self.last(x)).mean((3, 4))
        x = x.flatten(0, 1) if self.config.input == "frames" else x.mean(1)
        return self.score(x).squeeze(-1).float()


class ResidualBlock(nn.Module):
    """(B, T, C, H, W) -> (B, T', C', H', W') at half the size, rounded up, of clips in time as well: two convolutions,
    and a projection beside them."""

    def __init__(self, before: int, after: int, clips: bool):
        super().__init__()
        self.axes = (1, 3, 4) if clips else (3, 4)
        self.first = Convolution(before, before, 3, clips)
        self.second = Convolution(before, after, 3, clips)
        self.beside = Convolution(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        inside = _active(self.second(_halve(_active(self.first(x)), self.axes)))
        return (inside + self.beside(_halve(x, self.axes))) / 2**0.5


class Convolution(nn.Module):
    """(B, T, C, H, W) -> (B, T, C', H, W), frame by frame or, with `time`, over each frame and its two neighbours.

    Neighbours are stacked as channels: torch's bfloat16 Conv3d on CPUs gives wrong gradients for two frames
    (docs/training.md).
    """

    def __init__(self, before: int, after: int, kernel: int, time: bool = False):
        super().__init__()
        self.time = time
        self.frames = nn.Conv2d(3 * before if time else before, after, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        B, T = x.shape[:2]
        if self.time:
            padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
            x = torch.cat([padded[:, shift : shift + T] for shift in range(3)], dim=2)
        return self.frames(x.flatten(0, 1)).unflatten(0, (B, T))


def _active(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE) * 2**0.5  # which keeps the variance


def _halve(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Blur, then take every second position of the axes; one of a single position stays."""
    for axis in axes:
        if x.shape[axis] > 1:
            x = _halve_axis(x, axis)
    return x


def _halve_axis(x: Tensor, axis: int) -> Tensor:
    """By sums of shifted slices, whose second derivative, for the penalty, is cheap too."""
    size = x.shape[axis]
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
    padded = torch.cat((first, x, last, last), dim=axis)  # one before; enough behind for odd sizes
    half = (size + 1) // 2
    taps = [padded.narrow(axis, shift, 2 * half - 1).unfold(axis, 1, 2).squeeze(-1) for shift in range(len(_BLUR))]
    return sum(weight / sum(_BLUR) * tap for weight, tap in zip(_BLUR, taps, strict=True))


def _batch_stddev(x: Tensor) -> Tensor:
    """How much the samples of the batch differ (1710.10196): one value, as a channel (B, T, 1, H, W) of each sample."""
    B, T, _, H, W = x.shape
    spread = (x.float().var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.to(x.dtype).expand(B, T, 1, H, W)


def adversarial_loss(fake: Tensor, kind: AdversarialKind) -> Tensor:
    """What the tokenizer hears: low where the scores (N,) of its reconstructions are high."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor, kind: AdversarialKind) -> Tensor:
    """Low where scores (N,) are high for real pixels and low for reconstructed ones."""
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(discriminator: Discriminator, video: Tensor) -> Tensor:
    """Half the squared gradient of the scores at real pixels (B, 3, T, H, W), mean over scores (R1, 1801.04406)."""
    video = video.detach().requires_grad_()
    scores = discriminator(video)
    (gradient,) = torch.autograd.grad(scores.sum(), video, create_graph=True)
    return gradient.square().sum() / (2 * len(scores))


def adaptive_weight(others: Tensor, adversarial: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """How much longer the gradient of all other losses is than that of the adversarial one, at these weights: those of
    the decoder's last layer (VQGAN, 2012.09841, equation 7). At most 10,000; carries no gradient."""
    lengths = [
        torch.cat([g.flatten() for g in gradients if g is not None]).norm()
        for loss in (others, adversarial)
        for gradients in [torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)]
    ]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4).detach()
