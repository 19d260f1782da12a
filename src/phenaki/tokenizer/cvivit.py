"""C-ViViT, the paper's first stage (section 2.1, table 6 and appendix B.1).

Shapes: B batch, T frames, H, W pixels; t, h, w token grid; D width; p, ph, pw patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from phenaki.errors import PhenakiError
from phenaki.nn.attention import HEAD_DIM
from phenaki.nn.past import Past, begins
from phenaki.nn.positions import rotary_table
from phenaki.nn.transformer import Layer, initialize, width_error
from phenaki.tokenizer.base import Tokenizer
from phenaki.tokenizer.quantize import QuantizerConfig, build_quantizer


@dataclass(frozen=True)
class CViViTConfig:
    """The paper's sizes by default: 11 x 128 x 128 pixels become 6 x 16 x 16 tokens, about 50 M parameters."""

    image_size: tuple[int, int] = (128, 128)
    fps: float = 8.0
    patch: tuple[int, int, int] = (2, 8, 8)
    width: int = 512
    spatial_layers: int = 4
    temporal_layers: int = 4
    mlp_ratio: int = 4
    pixel_hidden: int = 0
    """Hidden units beside each linear projection from and to pixels; 0 is the paper's. A narrow network needs them: its
    width is the rank of what a linear projection can draw."""
    window: int = 6
    """Latent frames that each temporal layer sees, in training and in streams alike: the current one and the
    window - 1 before it. 6 are all of the paper's 11 frames."""
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="codebook"))

    def __post_init__(self) -> None:
        if error := width_error(self.width):
            raise PhenakiError(error)
        if self.pixel_hidden < 0:
            raise PhenakiError(f"pixel_hidden {self.pixel_hidden} must be 0 or more")
        if min(self.patch) < 1:
            raise PhenakiError(f"patch {self.patch}: frames, rows and columns of a patch must be 1 or more")
        if self.image_size[0] % self.patch[1] or self.image_size[1] % self.patch[2]:
            raise PhenakiError(f"image_size {self.image_size} is not a multiple of the patch {self.patch[1:]}")
        if self.window < 1:
            raise PhenakiError(f"window {self.window}: a latent frame sees itself at least, so give 1 or more")
        if self.fps <= 0:
            raise PhenakiError(f"fps {self.fps} must be above 0")


class CViViT(Tokenizer):
    """The first frame in patches of its own, the others in time patches; spatial, then causal temporal layers.

    The decoder is the mirror image: causal temporal, then spatial layers, then one linear projection to pixels.
    Positions in time are relative, and a temporal layer sees `config.window` latent frames: so a video of any length is
    encoded and decoded without a seam, and a latent frame depends on the last 1 + layers * (window - 1) alone.
    """

    def __init__(self, config: CViViTConfig):
        super().__init__()
        self.config = config
        self.patch = config.patch
        p, ph, pw = config.patch
        width = config.width
        first, rest, hidden = 3 * ph * pw, 3 * p * ph * pw, config.pixel_hidden
        self.embed_first = PixelProjection(first, width, hidden)
        self.embed_rest = PixelProjection(rest, width, hidden)
        self.norm_embedding = nn.LayerNorm(width)
        self.encoder_spatial = _layers(config.spatial_layers, config, causal=False)
        self.encoder_temporal = _layers(config.temporal_layers, config, causal=True)
        self.norm_latents = nn.LayerNorm(width)
        self.quantizer = build_quantizer(config.quantizer, width)
        self.decoder_temporal = _layers(config.temporal_layers, config, causal=True)
        self.decoder_spatial = _layers(config.spatial_layers, config, causal=False)
        self.norm_pixels = nn.LayerNorm(width)
        self.pixels_first = PixelProjection(width, first, hidden)
        self.pixels_rest = PixelProjection(width, rest, hidden)
        initialize(self, depth=config.spatial_layers + config.temporal_layers)

    @property
    def last_layer(self) -> list[nn.Parameter]:
        return [self.pixels_first.linear.weight, self.pixels_rest.linear.weight]

    def latents(self, video: Tensor, past: Past | None = None) -> Tensor:
        x = self.norm_embedding(self._embed(video * 2 - 1, begins(past)))
        x = _over_space(self.encoder_spatial, x)
        x = _over_time(self.encoder_temporal, x, self.config.window, past)
        return self.norm_latents(x)

    def reconstruct(self, latents: Tensor, past: Past | None = None) -> Tensor:
        x = _over_time(self.decoder_temporal, latents, self.config.window, past)
        x = _over_space(self.decoder_spatial, x)
        return self._pixels(self.norm_pixels(x), begins(past)) / 2 + 0.5

    def _embed(self, video: Tensor, first: bool) -> Tensor:
        """(B, 3, T, H, W) -> (B, t, h, w, D); `first`: whether the first frame is a time step of its own."""
        self.grid(video.shape[2] + (not first), *video.shape[3:])
        head, tail = video.tensor_split([int(first)], dim=2)
        embedded = []
        if head.shape[2]:
            embedded.append(self.embed_first(patchify(head, (1, *self.patch[1:]))))
        if tail.shape[2]:
            embedded.append(self.embed_rest(patchify(tail, self.patch)))
        return torch.cat(embedded, dim=1)

    def _pixels(self, x: Tensor, first: bool) -> Tensor:
        """(B, t, h, w, D) -> (B, 3, T, H, W), the inverse of `_embed` in shape."""
        head, tail = x.tensor_split([int(first)], dim=1)
        pixels = []
        if head.shape[1]:
            pixels.append(unpatchify(self.pixels_first(head), (1, *self.patch[1:])))
        if tail.shape[1]:
            pixels.append(unpatchify(self.pixels_rest(tail), self.patch))
        return torch.cat(pixels, dim=2)


class PixelProjection(nn.Module):
    """Linear projection (..., inputs) -> (..., outputs), and a network with one hidden layer beside it."""

    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.hidden = None
        if hidden:
            self.hidden = nn.Sequential(
                nn.Linear(inputs, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, outputs, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.hidden is None else self.linear(x) + self.hidden(x)


def patchify(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, 3, t*p, h*ph, w*pw) -> (B, t, h, w, p*ph*pw*3)."""
    p, ph, pw = patch
    B, C, T, H, W = video.shape
    x = video.reshape(B, C, T // p, p, H // ph, ph, W // pw, pw)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)


def unpatchify(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, t, h, w, p*ph*pw*3) -> (B, 3, t*p, h*ph, w*pw), the inverse of `patchify`."""
    p, ph, pw = patch
    B, t, h, w, _ = x.shape
    x = x.reshape(B, t, h, w, p, ph, pw, 3)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(B, 3, t * p, h * ph, w * pw)


def _layers(count: int, config: CViViTConfig, causal: bool) -> nn.ModuleList:
    window = config.window if causal else None
    return nn.ModuleList(Layer(config.width, config.mlp_ratio, causal=causal, window=window) for _ in range(count))


def _over_space(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Every token of one time step sees all the others of that step. (B, t, h, w, D) in and out."""
    B, t, h, w, D = x.shape
    rotary = rotary_table((h, w), HEAD_DIM, x.device)
    x = x.reshape(B * t, h * w, D)
    for layer in layers:
        x = layer(x, rotary)
    return x.view(B, t, h, w, D)


def _over_time(layers: nn.ModuleList, x: Tensor, window: int, past: Past | None) -> Tensor:
    """Every token sees those at its own position in its own and earlier latent frames. (B, t, h, w, D) in and out."""
    B, t, h, w, D = x.shape
    before = 0 if past is None else min(past.steps, window - 1)  # those whose keys and values the layers have kept
    rotary = rotary_table((before + t,), HEAD_DIM, x.device)
    x = x.permute(0, 2, 3, 1, 4).reshape(B * h * w, t, D)
    for layer in layers:
        x = layer(x, rotary, past=past)
    return x.view(B, h, w, t, D).permute(0, 3, 1, 2, 4)
