"""C-ViViT, the paper's first stage (section 2.1, table 6 and appendix B.1).

Shapes: B batch, T frames, H, W pixels; t, h, w token grid; D width; p, ph, pw patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

import torch
from torch import Tensor, nn

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.nn.attention import HEAD_DIM
from phenaki.nn.norm import LayerNorm, residual
from phenaki.nn.positions import rotary_table
from phenaki.nn.state import StreamState, is_first_chunk
from phenaki.nn.transformer import TransformerBlock, initialize, width_error
from phenaki.tokenizers.base import Tokenizer
from phenaki.tokenizers.patches import LinearSkip, patchify, unpatchify
from phenaki.tokenizers.quantizers import QuantizerConfig, build_quantizer
from phenaki.tokenizers.stem import Head, Stem

_START = 0.1
"""Size of the network's part of a latent beside that of the linear skip, before training."""


@configclass
class CViViTConfig:
    """Defaults are the paper's: 11 x 128 x 128 pixels to 6 x 16 x 16 tokens, about 50 M parameters."""

    image_size: tuple[int, int] = bounded((128, 128), at_least=1)
    fps: float = bounded(8.0, above=0)
    patch: tuple[int, int, int] = bounded((2, 8, 8), at_least=1)
    """Frames, rows and columns."""
    width: int = 512
    spatial_layers: int = 4
    temporal_layers: int = 4
    mlp_ratio: int = 4
    pixel_hidden: int = bounded(0, at_least=0)
    """Hidden units of an MLP parallel to each linear projection from and to pixels; 0 (the paper's): none. A narrow
    network needs it, since its width bounds the rank of a linear projection."""
    stem: tuple[int, ...] = bounded((), at_least=1)
    """Channels of a convolutional stem, each stage of which halves rows and columns before patches are cut, mirrored
    after them; (): none (the paper's). Without it, patch borders show in textured video."""
    linear_skip: bool = False
    """Add a linear map of each patch to its latent, and of each latent to its patch, beside the network. Training
    starts them at the principal components of the patches, so it begins at what these reconstruct. For `fsq`."""
    window: int = bounded(6, at_least=1)
    """Latent frames that a temporal layer attends to, the current one included, in training as in streams; 6 are all of
    the paper's 11 frames. Train on clips of three windows or more if longer videos are to be encoded."""
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="codebook"))

    def __post_init__(self) -> None:
        if error := width_error(self.width):
            raise PhenakiError(error)
        if self.image_size[0] % self.patch[1] or self.image_size[1] % self.patch[2]:
            raise PhenakiError(f"image_size {self.image_size} is not a multiple of the patch {self.patch[1:]}")
        if self.patch[1] % 2 ** len(self.stem) or self.patch[2] % 2 ** len(self.stem):
            raise PhenakiError(
                f"a stem of {len(self.stem)} stages needs a patch whose rows and columns are multiples of "
                f"{2 ** len(self.stem)}, not {self.patch[1:]}"
            )
        if self.linear_skip and self.quantizer.kind != "fsq":
            raise PhenakiError(
                f"linear_skip starts codes of kind 'fsq' only, not '{self.quantizer.kind}': set it false"
            )

    @property
    def cell(self) -> tuple[int, int, int]:
        """The patch, in what the stem leaves of the pixels."""
        p, ph, pw = self.patch
        return p, ph >> len(self.stem), pw >> len(self.stem)


class CViViT(Tokenizer):
    """Separate patches for the first frame and for each p later frames; spatial, then causal temporal layers.

    The decoder mirrors it: causal temporal, then spatial layers, then a projection to pixels. Positions in time are
    relative, so a latent frame depends on itself and the layers * (window - 1) before it, wherever the video began.
    """

    def __init__(self, config: CViViTConfig):
        super().__init__()
        self.config = config
        self.patch = config.patch
        p, rows, columns = config.cell
        width, hidden = config.width, config.pixel_hidden
        first = (config.stem[-1] if config.stem else 3) * rows * columns
        rest = p * first
        self.stem = Stem(config.stem) if config.stem else nn.Identity()
        self.embed_first = PixelProjection(first, width, hidden)
        self.embed_rest = PixelProjection(rest, width, hidden)
        self.norm_embedding = LayerNorm(width)
        self.encoder_spatial = _layers(config.spatial_layers, config, window=None)
        self.encoder_temporal = _layers(config.temporal_layers, config, config.window)
        self.norm_latents = nn.LayerNorm(width)
        self.quantizer = build_quantizer(config.quantizer, width)
        self.decoder_temporal = _layers(config.temporal_layers, config, config.window)
        self.decoder_spatial = _layers(config.spatial_layers, config, window=None)
        self.norm_pixels = LayerNorm(width)
        self.pixels_first = PixelProjection(width, first, hidden)
        self.pixels_rest = PixelProjection(width, rest, hidden)
        self.head = Head(config.stem) if config.stem else nn.Identity()
        self.skip = LinearSkip(config.patch, width) if config.linear_skip else None
        initialize(self, depth=config.spatial_layers + config.temporal_layers)

    @property
    def last_layer(self) -> list[nn.Parameter]:
        if self.config.stem:
            return [self.head.last_layer]
        return [self.pixels_first.linear.weight, self.pixels_rest.linear.weight]

    @torch.no_grad()
    def initialize_from_data(self, videos: Iterable[Tensor]) -> None:
        """Start the linear maps at the principal components of the patches, and the network at nearly zero beside them.
        videos: float (B, 3, T, H, W) in [0, 1]."""
        if self.skip is None:
            return
        self.skip.fit((video * 2 - 1 for video in videos), self.quantizer)
        self.norm_latents.weight.fill_(_START)
        for weight in self.last_layer:
            weight.zero_()

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        first, video = is_first_chunk(state), video * 2 - 1
        x = self.norm_embedding(self._embed(video, first))
        x = _over_space(self.encoder_spatial, x)
        x = _over_time(self.encoder_temporal, x, self.config.window, state)
        x = self.norm_latents(x)
        return x if self.skip is None else x + self.skip.encode(video, first)

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        first = is_first_chunk(state)
        x = _over_time(self.decoder_temporal, residual(latents), self.config.window, state)
        x = _over_space(self.decoder_spatial, x)
        pixels = self._pixels(self.norm_pixels(x), first)
        if self.skip is not None:
            pixels = pixels + self.skip.decode(latents, first)
        return pixels / 2 + 0.5

    def _embed(self, video: Tensor, first: bool) -> Tensor:
        """(B, 3, T, H, W) -> (B, t, h, w, D); `first`: whether the first frame is a latent frame of its own."""
        self.grid(video.shape[2] + (not first), *video.shape[3:])
        head, tail = self.stem(video).tensor_split([int(first)], dim=2)
        embedded, cell = [], self.config.cell
        if head.shape[2]:
            embedded.append(self.embed_first(patchify(head, (1, *cell[1:]))))
        if tail.shape[2]:
            embedded.append(self.embed_rest(patchify(tail, cell)))
        return torch.cat(embedded, dim=1)

    def _pixels(self, x: Tensor, first: bool) -> Tensor:
        """(B, t, h, w, D) -> (B, 3, T, H, W): the inverse of `_embed` in shape."""
        head, tail = x.tensor_split([int(first)], dim=1)
        pixels, cell = [], self.config.cell
        if head.shape[1]:
            pixels.append(unpatchify(self.pixels_first(head), (1, *cell[1:])))
        if tail.shape[1]:
            pixels.append(unpatchify(self.pixels_rest(tail), cell))
        return self.head(torch.cat(pixels, dim=2))


class PixelProjection(nn.Module):
    """Linear projection (..., inputs) -> (..., outputs), plus an optional MLP with one hidden layer."""

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


def _layers(count: int, config: CViViTConfig, window: int | None) -> nn.ModuleList:
    return nn.ModuleList(TransformerBlock(config.width, config.mlp_ratio, window) for _ in range(count))


def _over_space(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Each token attends to its own latent frame. (B, t, h, w, D) -> same shape."""
    B, t, h, w, D = x.shape
    rotary = rotary_table((h, w), HEAD_DIM, x.device)
    x = x.reshape(B * t, h * w, D)
    for layer in layers:
        x = layer(x, rotary)
    return x.view(B, t, h, w, D)


def _over_time(layers: nn.ModuleList, x: Tensor, window: int, state: StreamState | None) -> Tensor:
    """Each token attends to its own position in this and earlier latent frames. (B, t, h, w, D) -> same shape."""
    B, t, h, w, D = x.shape
    before = 0 if state is None else min(state.latent_frames, window - 1)  # those that the layers have kept
    rotary = rotary_table((before + t,), HEAD_DIM, x.device)
    x = x.permute(0, 2, 3, 1, 4).reshape(B * h * w, t, D)
    for layer in layers:
        x = layer(x, rotary, state=state)
    return x.view(B, h, w, t, D).permute(0, 3, 1, 2, 4)
