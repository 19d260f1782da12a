"""A convolutional stem in front of a tokenizer's patches, and its mirror behind them.

Pixels on both sides of a patch border then come from the same features, so the border does not show. Every frame is
processed alone, so both are causal.

Shapes: B batch, T frames, H, W pixels, C channels, n = len(channels) stages, each of which halves or doubles H and W.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.nn.block import Block
from phenaki.nn.convolution import CausalConv3d, CausalUpsample3d, depth_to_space
from phenaki.nn.norm import LayerNorm

HALF = (1, 2, 2)


class Stem(nn.Sequential):
    """(B, 3, T, H, W) -> (B, C, T, H / 2^n, W / 2^n), C = channels[-1]."""

    def __init__(self, channels: tuple[int, ...]):
        stages = pairwise((3, *channels))
        super().__init__(*_flat((CausalConv3d(a, b, (1, 4, 4), HALF), ResidualBlock(b)) for a, b in stages))
        _initialize(self, depth=len(channels))

    def forward(self, video: Tensor) -> Tensor:
        return super().forward(video.permute(0, 2, 3, 4, 1).contiguous()).permute(0, 4, 1, 2, 3)


class Head(nn.Sequential):
    """(B, C, T, H / 2^n, W / 2^n) -> (B, 3, T, H, W), C = channels[-1]."""

    def __init__(self, channels: tuple[int, ...]):
        stages = pairwise(reversed(channels))
        finest = channels[0]
        super().__init__(
            *_flat((ResidualBlock(a), CausalUpsample3d(a, b, HALF)) for a, b in stages),
            ResidualBlock(finest),
            LayerNorm(finest, bias=False),
            nn.SiLU(),
            CausalConv3d(finest, 3 * 2 * 2, (1, 3, 3)),
        )
        _initialize(self, depth=len(channels))

    @property
    def last_layer(self) -> nn.Parameter:
        return self[-1].frames.weight

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(super().forward(x.permute(0, 2, 3, 4, 1)), HALF).permute(0, 4, 1, 2, 3)


class ResidualBlock(Block):
    """Two 3x3 convolutions within each frame (B, T, H, W, C) -> same shape. The norm is over channels only."""

    dynamic_lengths = False  # inductor fails on convolutions of unknown size

    def __init__(self, width: int):
        super().__init__()
        self.norm = LayerNorm(width, bias=False)
        self.first = CausalConv3d(width, width, (1, 3, 3))
        self.second = CausalConv3d(width, width, (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def _flat(groups: Iterable[tuple[nn.Module, ...]]) -> list[nn.Module]:
    return [module for group in groups for module in group]


@torch.no_grad()
def _initialize(network: nn.Module, depth: int) -> None:
    """Normal with variance 1 / fan-in; the last convolution of each residual branch scaled by 1 / sqrt(2 depth)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.second.frames.weight.div_((2 * depth) ** 0.5)
