"""What others know of a tokenizer: its grid, its vocabulary, and which videos and ids it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames, patch_rows


class Grid(NamedTuple):
    """Token grid: latent frames, rows, columns of ids."""

    t: int
    h: int
    w: int


@dataclass(frozen=True)
class TokenizerSpec:
    """What a generator stores about the tokenizer of its ids. patch: (p frames, rows, columns) of a latent frame.
    num_codebooks: ids of each patch, side by side, each in 0..vocab_size-1."""

    vocab_size: int
    patch: tuple[int, int, int]
    image_size: tuple[int, int]
    fps: float
    num_codebooks: int = 1

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip. Raises PhenakiError for lengths and sizes that do not fit the patches."""
        period, *patch = self.patch
        rows, columns = patch_rows(height, width, tuple(patch))
        return Grid(latent_frames(frames, period), rows, columns * self.num_codebooks)

    def check_video(self, video: Tensor, check_values: bool = True) -> None:
        """Raise PhenakiError unless `video` is float (B, 3, n, H, W) in [0, 1] of a size that fits the patches."""
        if video.ndim != 5 or video.shape[1] != 3 or not video.is_floating_point():
            raise PhenakiError(
                f"a video of shape {tuple(video.shape)} and type {video.dtype}: pass float (B, 3, T, H, W) in [0, 1]; "
                "phenaki.media.convert.to_float converts uint8 (T, H, W, 3)"
            )
        if check_values and video.numel():
            low, high = float(video.min()), float(video.max())
            if not (low >= -1e-3 and high <= 1 + 1e-3):  # refuses NaN too
                raise PhenakiError(f"a video with values from {low:.3g} to {high:.3g}: pass RGB in [0, 1]")
        self.grid(1, *video.shape[3:])

    def check_ids(self, ids: Tensor, check_values: bool = True) -> None:
        """Raise PhenakiError unless `ids` is (B, t, h, w) with values in 0..V-1."""
        if ids.ndim != 4 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise PhenakiError(f"ids of shape {tuple(ids.shape)} and type {ids.dtype}: decode takes int64 (B, t, h, w)")
        if not check_values or not ids.numel():
            return
        if ids.shape[-1] % self.num_codebooks:
            raise PhenakiError(
                f"ids of shape {tuple(ids.shape)}: a row has {self.num_codebooks} ids for each patch, one per codebook"
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise PhenakiError(
                f"ids from {low} to {high} are not from this tokenizer, whose codes are 0 to {self.vocab_size - 1}"
            )
