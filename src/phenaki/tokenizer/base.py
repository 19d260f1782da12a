"""The contract of a tokenizer (first stage): video to a small grid of discrete ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from phenaki.errors import PhenakiError
from phenaki.grid import frame_count, time_steps
from phenaki.precision import autocast
from phenaki.tokenizer.quantize import Quantized


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
    def facts(self) -> TokenizerFacts:
        return TokenizerFacts(self.vocab_size, tuple(self.patch), tuple(self.config.image_size), self.config.fps)

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip. Raises PhenakiError for lengths and sizes that do not fit the patches."""
        p, ph, pw = self.patch
        t = time_steps(frames, p)
        if height < ph or width < pw or height % ph or width % pw:
            raise PhenakiError(
                f"frames of {height}x{width} pixels do not fit this tokenizer, whose patches are {ph}x{pw}: "
                f"height must be a multiple of {ph}, width of {pw}"
            )
        return Grid(t, height // ph, width // pw)

    def frames(self, t: int) -> int:
        """Frames T of a clip of t time steps: the inverse of `grid`."""
        return frame_count(t, self.patch[0])

    @abstractmethod
    def latents(self, video: Tensor) -> Tensor:
        """video float (B, 3, T, H, W) in [0, 1] -> latents (B, t, h, w, D) before quantizing."""

    @abstractmethod
    def reconstruct(self, latents: Tensor) -> Tensor:
        """Quantized latents (B, t, h, w, D) -> video float (B, 3, T, H, W), not clamped."""

    def forward(self, video: Tensor) -> Reconstruction:
        quantized = self.quantizer(self.latents(video))
        return Reconstruction(self.reconstruct(quantized.latents), quantized)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """video float (B, 3, T, H, W) in [0, 1] -> ids int64 (B, t, h, w)."""
        check_video(video)
        with autocast(video.device):
            return self.quantizer(self.latents(video)).ids

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """ids int64 (B, t, h, w) in 0..V-1 -> video float32 (B, 3, T, H, W) in [0, 1]."""
        if ids.ndim != 4:
            raise PhenakiError(f"ids have the shape {tuple(ids.shape)}: decode takes (B, t, h, w)")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise PhenakiError(
                f"ids from {low} to {high} were not written by this tokenizer, "
                f"whose codes are 0 to {self.vocab_size - 1}"
            )
        with autocast(ids.device):
            video = self.reconstruct(self.quantizer.embed(ids))
        return video.float().clamp(0, 1)


def check_video(video: Tensor) -> None:
    """Raise PhenakiError unless `video` is a float tensor (B, 3, T, H, W) with values in [0, 1]."""
    if video.ndim != 5 or video.shape[1] != 3 or not video.is_floating_point():
        raise PhenakiError(
            f"a video of shape {tuple(video.shape)} and type {video.dtype}: give float (B, 3, T, H, W) in [0, 1]; "
            "phenaki.video.to_float makes it from uint8 (T, H, W, 3)"
        )
    low, high = float(video.min()), float(video.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # so that nan is refused too
        raise PhenakiError(f"a video with values from {low:.3g} to {high:.3g}: give RGB in [0, 1]")
