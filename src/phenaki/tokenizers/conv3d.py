"""A convolutional first stage: a causal 3D residual network, spatial 8x, temporal 2x, after LAION's.

One stem serves all frames. A learned frame in front of the clip makes pairs of them, (learned, first), (second, third),
..., so that a stride of two in time keeps the first frame a time step of its own, and images train by the same code.

Shapes: B batch, T frames, H, W pixels; t, h, w token grid; D = widths[-1].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError
from phenaki.nn.block import Block
from phenaki.nn.convolution import CausalConv3d, CausalUpsample3d
from phenaki.nn.state import StreamState, is_first_chunk
from phenaki.nn.transformer import initialize
from phenaki.tokenizers.base import Tokenizer
from phenaki.tokenizers.quantizers import QuantizerConfig, build_quantizer

PATCH = (2, 8, 8)
HALF, HALF_IN_TIME = (1, 2, 2), (2, 2, 2)


@dataclass(frozen=True)
class Conv3DConfig:
    """LAION's sizes by default: 11 x 128 x 128 pixels become 6 x 16 x 16 tokens, about 43 M parameters."""

    image_size: tuple[int, int] = (128, 128)
    fps: float = 8.0
    widths: tuple[int, int, int] = (64, 256, 512)
    """Channels at a half, a quarter and an eighth of the rows and columns."""
    blocks: tuple[int, int, int] = (2, 2, 6)
    """Residual blocks there, in the encoder and in the decoder."""
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="codebook", code_dim=16))

    def __post_init__(self) -> None:
        if min(self.widths) < 1 or min(self.blocks) < 1:
            raise PhenakiError(f"widths {self.widths} and blocks {self.blocks} must be 1 or more")
        if min(self.image_size) < 8 or self.image_size[0] % PATCH[1] or self.image_size[1] % PATCH[2]:
            raise PhenakiError(f"image_size {self.image_size} is not a multiple of the patch {PATCH[1:]}")
        if self.fps <= 0:
            raise PhenakiError(f"fps {self.fps} must be above 0")

    @property
    def patch(self) -> tuple[int, int, int]:
        return PATCH


class Conv3D(Tokenizer):
    """Residual blocks at three sizes, the same number on the way down and up; no layer mixes a frame with later ones.

    `latents` and `reconstruct` take a clip whole or, with the same `state`, the pieces of a stream one after another.
    """

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
        self.norm_pixels = nn.LayerNorm(fine, bias=False)
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
            x = x[:, 1:]  # the learned frame's half of the first pair
        return x.permute(0, 4, 1, 2, 3) / 2 + 0.5

    def _learned_frame(self, video: Tensor) -> Tensor:
        """The learned tile, laid out over one frame: (B, 3, 1, H, W)."""
        B, _, _, H, W = video.shape
        frame = self.learned_frame.repeat(1, H // PATCH[1], W // PATCH[2])
        return frame[None, :, None].expand(B, -1, -1, -1, -1)


class ConvBlock(Block):
    """Residual, (B, T, H, W, C) in and out: 3x3 over each frame, then three frames in time.

    The norms are over channels alone: statistics over places or times would mix what must stay apart.
    """

    dynamic_lengths = False  # inductor fails on convolutions of unknown size

    def __init__(self, width: int):
        super().__init__()
        self.norm_space = nn.LayerNorm(width, bias=False)
        self.space = CausalConv3d(width, width, (1, 3, 3))
        self.norm_time = nn.LayerNorm(width, bias=False)
        self.time = CausalConv3d(width, width, (3, 1, 1))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.space(F.silu(self.norm_space(x)), state)
        return x + self.time(F.silu(self.norm_time(y)), state)


def _initialize_convolutions(network: nn.Module, depth: int) -> None:
    """Normal, of variance 1 / fan-in; the last of each residual branch smaller by sqrt(2 depth)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ConvBlock):
            with torch.no_grad():
                module.time.frames.weight.div_((2 * depth) ** 0.5)
