"""C-ViViT of phenaki-pytorch and of Obvious Research's fork. It is not causal; `Peg` explains why.

Shapes: B batch, T frames, H, W pixels; t, h, w token grid; D width; d code dimension.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.compat.transformer import PositionBias, Transformer
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.tokenizers.base import Tokenizer
from phenaki.tokenizers.patches import patchify, unpatchify
from phenaki.tokenizers.quantizers.base import Quantized, in_float32

Pixels = Literal["rgb", "bgr255"]
_ROWS = 8192  # latents compared with all codes at a time


@configclass
class PegCViViTConfig:
    """Sizes of the network. `hidden`: of the feed-forward networks.

    spatial_peg: position-generating convolutions in the spatial layers too, and temporal attention without a causal
    mask, as in Obvious Research's and early versions of phenaki-pytorch; later ones have convolutions in the temporal
    layers only, and causal attention there. pixels: of the training videos, RGB from 0 to 1, or BGR from 0 to 255 as
    phenaki-pytorch's own data set reads .mp4 files. causal: always False.
    """

    image_size: tuple[int, int]
    patch: tuple[int, int, int]
    width: int
    spatial_layers: int
    temporal_layers: int
    heads: int
    head_dim: int
    hidden: int
    quantizer: Literal["cosine", "lookup_free"]
    codebook_size: int
    code_dim: int
    spatial_peg: bool
    fps: float = bounded(8.0, above=0)
    pixels: Pixels = "rgb"
    causal: Literal[False] = False

    def __post_init__(self) -> None:
        if self.image_size[0] % self.patch[1] or self.image_size[1] % self.patch[2]:
            raise PhenakiError(f"image_size {self.image_size} is not a multiple of the patch {self.patch[1:]}")


class PegCViViT(Tokenizer):
    """A tokenizer with the ids and pixels of the original network, in float32."""

    causal = False

    def __init__(self, config: PegCViViTConfig):
        super().__init__()
        self.config = config
        self.patch = config.patch
        p, ph, pw = config.patch
        width, first, rest = config.width, 3 * ph * pw, 3 * p * ph * pw
        self.spatial_rel_pos_bias = PositionBias(2, width, config.heads)
        self.to_patch_emb_first_frame = _embedding(first, width)
        self.to_patch_emb = _embedding(rest, width)
        sizes = (config.heads, config.head_dim, config.hidden)
        spatial: dict[str, Any] = {"peg": config.spatial_peg}
        temporal: dict[str, Any] = {"causal": not config.spatial_peg}
        self.enc_spatial_transformer = Transformer(width, config.spatial_layers, *sizes, **spatial)
        self.enc_temporal_transformer = Transformer(width, config.temporal_layers, *sizes, **temporal)
        quantizer = CosineCodes if config.quantizer == "cosine" else LookupFree
        self.vq = quantizer(width, config.code_dim, config.codebook_size)
        self.dec_spatial_transformer = Transformer(width, config.spatial_layers, *sizes, **spatial)
        self.dec_temporal_transformer = Transformer(width, config.temporal_layers, *sizes, **temporal)
        self.to_pixels_first_frame = nn.Sequential(nn.Linear(width, first))
        self.to_pixels = nn.Sequential(nn.Linear(width, rest))

    @property
    def quantizer(self) -> CosineCodes | LookupFree:
        return self.vq

    @in_float32  # in bfloat16 some ids would differ from the original's
    def encode_latents(self, video: Tensor, state: None = None) -> Tensor:
        """As `Tokenizer.encode_latents`; `state` is None, as there are no streams without causality."""
        self.grid(*video.shape[2:])
        if self.config.pixels == "bgr255":
            video = video.flip(1) * 255
        x = self._embed(video.float())
        x = _attend_space(self.enc_spatial_transformer, x, self.spatial_rel_pos_bias)
        return _attend_time(self.enc_temporal_transformer, x)

    @in_float32
    def decode_latents(self, latents: Tensor, state: None = None) -> Tensor:
        """As `Tokenizer.decode_latents`, without streams."""
        x = _attend_time(self.dec_temporal_transformer, latents)
        x = _attend_space(self.dec_spatial_transformer, x, self.spatial_rel_pos_bias)
        video = self._pixels(x)
        return video.flip(1) / 255 if self.config.pixels == "bgr255" else video

    def _embed(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, t, h, w, D)."""
        first = self.to_patch_emb_first_frame(_patches(video[:, :, :1], (1, *self.patch[1:])))
        if video.shape[2] == 1:
            return first
        return torch.cat((first, self.to_patch_emb(_patches(video[:, :, 1:], self.patch))), dim=1)

    def _pixels(self, x: Tensor) -> Tensor:
        """(B, t, h, w, D) -> (B, 3, T, H, W)."""
        first = _video(self.to_pixels_first_frame(x[:, :1]), (1, *self.patch[1:]))
        if x.shape[1] == 1:
            return first
        return torch.cat((first, _video(self.to_pixels(x[:, 1:]), self.patch)), dim=2)


class CosineCodes(nn.Module):
    """Codebook with cosine similarity; codes may have fewer dimensions than the latents."""

    def __init__(self, width: int, code_dim: int, vocab_size: int):
        super().__init__()
        self.vocab_size, self.num_codebooks = vocab_size, 1
        self.project_in, self.project_out = _projections(width, code_dim)
        self._codebook = nn.ParameterDict({"embed": torch.zeros(1, vocab_size, code_dim)})

    @in_float32
    def forward(self, latents: Tensor) -> Quantized:
        """latents float (..., D) -> Quantized."""
        before = F.normalize(self.project_in(latents), dim=-1)
        codes = self._codebook["embed"][0]
        nearest = [(rows @ codes.T).argmax(-1) for rows in before.flatten(0, -2).split(_ROWS)]
        ids = torch.cat(nearest).view(before.shape[:-1])
        return Quantized(self.indices_to_latents(ids), ids, before, codes[ids])

    @in_float32
    def indices_to_latents(self, ids: Tensor) -> Tensor:
        """ids int64 (...) -> latents (..., D)."""
        return self.project_out(self._codebook["embed"][0][ids])


class LookupFree(nn.Module):
    """Lookup-free quantization (2310.05737): the signs of d values, 2^d codes without a table."""

    def __init__(self, width: int, code_dim: int, vocab_size: int):
        super().__init__()
        self.vocab_size, self.num_codebooks = vocab_size, 1
        self.project_in, self.project_out = _projections(width, code_dim)
        self.register_buffer("mask", 2 ** torch.arange(code_dim - 1, -1, -1))  # the place value of each sign in an id

    @in_float32
    def forward(self, latents: Tensor) -> Quantized:
        """latents float (..., D) -> Quantized."""
        before = self.project_in(latents)
        ids = ((before > 0) * self.mask).sum(-1)
        return Quantized(self.indices_to_latents(ids), ids, before, self._signs(ids))

    @in_float32
    def indices_to_latents(self, ids: Tensor) -> Tensor:
        """ids int64 (...) -> latents (..., D)."""
        return self.project_out(self._signs(ids))

    def _signs(self, ids: Tensor) -> Tensor:
        return (ids[..., None] & self.mask != 0).float() * 2 - 1


def _projections(width: int, code_dim: int) -> tuple[nn.Module, nn.Module]:
    """To and from the codes' dimension, the identity if it is the width."""
    if width == code_dim:
        return nn.Identity(), nn.Identity()
    return nn.Linear(width, code_dim), nn.Linear(code_dim, width)


def _embedding(inputs: int, width: int) -> nn.Sequential:
    """The identity replaces the original's rearrangement, to keep the names of the weights."""
    return nn.Sequential(nn.Identity(), nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.LayerNorm(width))


def _patches(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, 3, t*p, h*ph, w*pw) -> (B, t, h, w, 3*p*ph*pw), channel by channel."""
    return patchify(video, patch).unflatten(-1, (-1, 3)).transpose(-1, -2).flatten(-2)


def _video(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """The inverse of `_patches`."""
    return unpatchify(x.unflatten(-1, (3, -1)).transpose(-1, -2).flatten(-2), patch)


def _attend_space(transformer: Transformer, x: Tensor, position_bias: PositionBias) -> Tensor:
    """(B, t, h, w, D) in and out."""
    B, t, h, w, D = x.shape
    x = transformer(x.reshape(B * t, h * w, D), (B, t, h, w), position_bias((h, w)))
    return x.view(B, t, h, w, D)


def _attend_time(transformer: Transformer, x: Tensor) -> Tensor:
    """(B, t, h, w, D) in and out."""
    B, t, h, w, D = x.shape
    x = transformer(x.permute(0, 2, 3, 1, 4).reshape(B * h * w, t, D), (B, t, h, w))
    return x.view(B, h, w, t, D).permute(0, 3, 1, 2, 4)
