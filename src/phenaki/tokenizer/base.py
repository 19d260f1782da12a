"""The contract of a tokenizer (first stage): video to a small grid of discrete ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from phenaki.errors import PhenakiError
from phenaki.grid import frame_count, nearest, time_steps
from phenaki.nn.past import Past
from phenaki.precision import autocast
from phenaki.tokenizer.quantize import Quantized
from phenaki.tokenizer.streaming import Decoder, Encoder


class Reconstruction(NamedTuple):
    """What a tokenizer's forward pass gives: video float (B, 3, T, H, W), not clamped, and what the quantizer did."""

    video: Tensor
    quantized: Quantized


class Grid(NamedTuple):
    """Token grid: time steps, rows, columns."""

    t: int
    h: int
    w: int


@dataclass(frozen=True)
class TokenizerFacts:
    """What a generator has to know of the tokenizer whose ids it writes."""

    vocab_size: int
    patch: tuple[int, int, int]
    image_size: tuple[int, int]
    fps: float


class Tokenizer(nn.Module, ABC):
    """Video float (B, 3, T, H, W) in [0, 1] <-> ids int64 (B, t, h, w) with t = 1 + (T - 1) / p.

    Subclasses set `config` (with `fps` and `image_size`), `patch` = (p, pixels per row, per column) and `quantizer`,
    and define `latents` and `reconstruct`. A tokenizer is causal: frames after the k-th time step do not change the
    ids up to it; `causal` says so, and imported models that are not say False.
    """

    patch: tuple[int, int, int]
    causal: bool = True

    @property
    def vocab_size(self) -> int:
        return self.quantizer.vocab_size

    @property
    def last_layer(self) -> list[nn.Parameter]:
        """Weights of the decoder's last layer, where an adaptive adversarial loss compares gradients."""
        raise PhenakiError(f"{type(self).__name__} names no last layer: train it with discriminator.adaptive=false")

    @property
    def facts(self) -> TokenizerFacts:
        return TokenizerFacts(self.vocab_size, tuple(self.patch), tuple(self.config.image_size), self.config.fps)

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip. Raises PhenakiError for lengths and sizes that do not fit the patches."""
        p, ph, pw = self.patch
        t = time_steps(frames, p)
        if height < ph or width < pw or height % ph or width % pw:
            raise PhenakiError(
                f"frames of height {height} and width {width} do not fit this tokenizer, whose patches are {ph}x{pw}: "
                f"height must be a multiple of {ph}, width of {pw}; the nearest are {nearest(height, ph)} and "
                f"{nearest(width, pw)}"
            )
        return Grid(t, height // ph, width // pw)

    def frames(self, t: int) -> int:
        """Frames T of a clip of t time steps: the inverse of `grid`."""
        return frame_count(t, self.patch[0])

    @abstractmethod
    def latents(self, video: Tensor, past: Past | None = None) -> Tensor:
        """video float (B, 3, T, H, W) in [0, 1] -> latents (B, t, h, w, D) before quantizing.

        With `past`, the video is a piece of a stream: its first (T = 1 + p k frames) where `past.steps` is 0, else one
        that goes on from the steps before (T = p k). Each causal layer takes what it needs of those by `past.join`.
        """

    @abstractmethod
    def reconstruct(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Quantized latents (B, t, h, w, D) -> video float (B, 3, T, H, W), not clamped; `past` as in `latents`."""

    def forward(self, video: Tensor) -> Reconstruction:
        quantized = self.quantizer(self.latents(video))
        return Reconstruction(self.reconstruct(quantized.latents), quantized)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """video float (B, 3, T, H, W) in [0, 1] -> ids int64 (B, t, h, w)."""
        self.check_video(video)
        self.grid(*video.shape[2:])
        if self.causal:
            return self.encoder().push(video)
        with autocast(video.device):
            return self.quantizer(self.latents(video)).ids

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """ids int64 (B, t, h, w) in 0..V-1 -> video float32 (B, 3, T, H, W) in [0, 1]."""
        self.check_ids(ids)
        if self.causal:
            return self.decoder().push(ids)
        with autocast(ids.device):
            return self.reconstruct(self.quantizer.embed(ids)).float().clamp(0, 1)

    def encoder(self) -> Encoder:
        """A stream into which frames go piece by piece, and out of which ids come."""
        return Encoder(self)

    def decoder(self) -> Decoder:
        """A stream into which ids go piece by piece, and out of which frames come."""
        return Decoder(self)

    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Videos float (B, 3, n, H, W) of any lengths n, one after the other -> ids int64 (B, k, h, w), as they come.

        Memory does not grow with the length. All ids together are those of `encode` of all frames together, up to
        rounding. Raises PhenakiError for a tokenizer that is not causal, for pieces of unequal size, and at the end if
        the frames were not 1 + p k.
        """
        encoder = self.encoder()
        for piece in pieces:
            ids = encoder.push(piece)
            if ids.shape[1]:
                yield ids
        encoder.finish()

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Ids int64 (B, k, h, w), one after the other -> videos float32 (B, 3, n, H, W) in [0, 1]; as `encode_stream`.

        `decode_stream(encode_stream(frames))` reconstructs a video of any length.
        """
        decoder = self.decoder()
        for piece in pieces:
            yield decoder.push(piece)

    def check_video(self, video: Tensor) -> None:
        """Raise PhenakiError unless `video` is float (B, 3, n, H, W) in [0, 1] of a size that fits the patches."""
        check_video(video)
        self.grid(1, *video.shape[3:])

    def check_ids(self, ids: Tensor) -> None:
        """Raise PhenakiError unless `ids` is (B, k, h, w) with values from 0 to V - 1."""
        if ids.ndim != 4:
            raise PhenakiError(f"ids have the shape {tuple(ids.shape)}: decode takes (B, t, h, w)")
        if not ids.numel():
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise PhenakiError(
                f"ids from {low} to {high} were not written by this tokenizer, "
                f"whose codes are 0 to {self.vocab_size - 1}"
            )


def check_video(video: Tensor) -> None:
    """Raise PhenakiError unless `video` is a float tensor (B, 3, T, H, W) with values in [0, 1]."""
    if video.ndim != 5 or video.shape[1] != 3 or not video.is_floating_point():
        raise PhenakiError(
            f"a video of shape {tuple(video.shape)} and type {video.dtype}: give float (B, 3, T, H, W) in [0, 1]; "
            "phenaki.video.to_float makes it from uint8 (T, H, W, 3)"
        )
    if not video.numel():
        return
    low, high = float(video.min()), float(video.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # so that nan is refused too
        raise PhenakiError(f"a video with values from {low:.3g} to {high:.3g}: give RGB in [0, 1]")
