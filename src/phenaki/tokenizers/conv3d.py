"""A convolutional first stage: a causal 3D residual network, 8x in space and 2x in time, after LAION's.

A learned frame before the clip pairs up all frames, (learned, first), (second, third), ..., so a temporal stride of two
keeps the first frame a latent frame of its own, one stem serves all frames, and images train by the same code.

Shapes: B batch, T frames, H, W pixels; t, h, w token grid; D = widths[-1].
"""

from __future__ import annotations

from dataclasses import field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.nn.block import Block
from phenaki.nn.convolution import CausalConv3d, CausalUpsample3d
from phenaki.nn.norm import LayerNorm
from phenaki.nn.state import StreamState, is_first_chunk
from phenaki.nn.transformer import initialize
from phenaki.tokenizers.base import Tokenizer
from phenaki.tokenizers.quantizers import QuantizerConfig, build_quantizer

PATCH = (2, 8, 8)
HALF, HALF_IN_TIME = (1, 2, 2), (2, 2, 2)


@configclass
class Conv3DConfig:
    """Defaults are LAION's: 11 x 128 x 128 pixels to 6 x 16 x 16 tokens, about 43 M parameters."""

    image_size: tuple[int, int] = bounded((128, 128), at_least=8)
    fps: float = bounded(8.0, above=0)
    widths: tuple[int, int, int] = bounded((64, 256, 512), at_least=1)
    """Channels at 1/2, 1/4 and 1/8 of the resolution."""
    blocks: tuple[int, int, int] = bounded((2, 2, 6), at_least=1)
    """Residual blocks at each resolution, in the encoder and in the decoder."""
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="codebook", code_dim=16))

    def __post_init__(self) -> None:
        if self.image_size[0] % PATCH[1] or self.image_size[1] % PATCH[2]:
            raise PhenakiError(f"image_size {self.image_size} is not a multiple of the patch {PATCH[1:]}")

    @property
    def patch(self) -> tuple[int, int, int]:
        return PATCH


class Conv3D(Tokenizer):
    """Residual blocks at three resolutions, as many in the encoder as in the decoder; every layer is causal."""

    def __init__(self, config: Conv3DConfig):
        super().__init__()
        self.config = config
        self.patch = PATCH
        fine, middle, coarse = config.widths
        first, second, third = config.blocks
        self.learned_frame = nn.Parameter(torch.zeros(3, *PATCH[1:]))
        self.down = nn.ModuleList(
            (
                CausalConv3d(3, fine, HALF, HALF),
                *(ConvBlock(fine) for _ in range(first)),
                CausalConv3d(fine, middle, HALF_IN_TIME, HALF_IN_TIME),
                *(ConvBlock(middle) for _ in range(second)),
                CausalConv3d(middle, coarse, HALF, HALF),
                *(ConvBlock(coarse) for _ in range(third)),
            )
        )
        self.norm_latents = nn.LayerNorm(coarse)
        self.quantizer = build_quantizer(config.quantizer, coarse)
        self.up = nn.ModuleList(
            (
                *(ConvBlock(coarse) for _ in range(third)),
                CausalUpsample3d(coarse, middle, HALF),
                *(ConvBlock(middle) for _ in range(second)),
                CausalUpsample3d(middle, fine, HALF_IN_TIME),
                *(ConvBlock(fine) for _ in range(first)),
            )
        )
        self.norm_pixels = LayerNorm(fine, bias=False)
        self.pixels = CausalUpsample3d(fine, 3, HALF)
        initialize(self, depth=sum(config.blocks))
        _initialize_convolutions(self, depth=sum(config.blocks))

    @property
    def last_layer(self) -> list[nn.Parameter]:
        return [self.pixels.frames.weight]

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        x = video * 2 - 1
        if is_first_chunk(state):
            self.grid(*video.shape[2:])
            x = torch.cat((self._learned_frame(x), x), dim=2)
        x = x.permute(0, 2, 3, 4, 1).contiguous()
        for layer in self.down:
            x = layer(x, state)
        return self.norm_latents(x)

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        x = latents
        for block in self.up:
            x = block(x, state)
        x = self.pixels(F.silu(self.norm_pixels(x)))
        if is_first_chunk(state):
            x = x[:, 1:]  # drops the learned frame of the first pair
        return x.permute(0, 4, 1, 2, 3) / 2 + 0.5

    def _learned_frame(self, video: Tensor) -> Tensor:
        """The learned patch, tiled over one frame: (B, 3, 1, H, W)."""
        B, _, _, H, W = video.shape
        frame = self.learned_frame.repeat(1, H // PATCH[1], W // PATCH[2])
        return frame[None, :, None].expand(B, -1, -1, -1, -1)


class ConvBlock(Block):
    """Residual block (B, T, H, W, C) -> same shape: 3x3 in space, then 3 in time.

    Norms are over channels only: statistics over time would break causality, over space the independence of tiles.
    """

    dynamic_lengths = False  # inductor fails on convolutions of unknown size

    def __init__(self, width: int):
        super().__init__()
        self.norm_space = LayerNorm(width, bias=False)
        self.space = CausalConv3d(width, width, (1, 3, 3))
        self.norm_time = LayerNorm(width, bias=False)
        self.time = CausalConv3d(width, width, (3, 1, 1))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.space(F.silu(self.norm_space(x)), state)
        return x + self.time(F.silu(self.norm_time(y)), state)


def _initialize_convolutions(network: nn.Module, depth: int) -> None:
    """Normal with variance 1 / fan-in; the last convolution of each residual branch scaled by 1 / sqrt(2 depth)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ConvBlock):
            with torch.no_grad():
                module.time.frames.weight.div_((2 * depth) ** 0.5)
