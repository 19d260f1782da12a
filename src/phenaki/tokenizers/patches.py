"""Patches of a clip as rows of pixels, and linear maps between them and latents.

Shapes: B batch, T frames, H, W pixels; t, h, w grid; D width of latents, d dimensions of a code; p, ph, pw patch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError
from phenaki.tokenizers.quantizers.base import Quantizer

_SPREAD = 0.9
"""Standard deviation of each component before a code's tanh: the levels are then about equally frequent."""
_KEPT = 128  # patches of each clip, so that clips of many pixels take little memory


def patchify(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, C, t*p, h*ph, w*pw) -> (B, t, h, w, p*ph*pw*C)."""
    p, ph, pw = patch
    B, C, T, H, W = video.shape
    x = video.reshape(B, C, T // p, p, H // ph, ph, W // pw, pw)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)


def unpatchify(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, t, h, w, p*ph*pw*C) -> (B, C, t*p, h*ph, w*pw): the inverse of `patchify`."""
    p, ph, pw = patch
    B, t, h, w, _ = x.shape
    x = x.reshape(B, t, h, w, p, ph, pw, -1)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(B, -1, t * p, h * ph, w * pw)


class LinearSkip(nn.Module):
    """Linear maps from the pixels of patches to latents, and back; the first frame has its own."""

    def __init__(self, patch: tuple[int, int, int], width: int):
        super().__init__()
        self.patches = (1, *patch[1:]), patch
        sizes = [3 * p * ph * pw for p, ph, pw in self.patches]
        self.to_latents = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.to_pixels = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def encode(self, video: Tensor, first: bool) -> Tensor:
        """(B, 3, T, H, W) -> (B, t, h, w, D); `first`: whether the first frame is a latent frame of its own."""
        parts = zip(video.tensor_split([int(first)], dim=2), self.to_latents, self.patches, strict=True)
        return torch.cat([linear(patchify(part, patch)) for part, linear, patch in parts if part.shape[2]], dim=1)

    def decode(self, latents: Tensor, first: bool) -> Tensor:
        """(B, t, h, w, D) -> (B, 3, T, H, W)."""
        parts = zip(latents.tensor_split([int(first)], dim=1), self.to_pixels, self.patches, strict=True)
        return torch.cat([unpatchify(linear(part), patch) for part, linear, patch in parts if part.shape[1]], dim=2)

    def fit(self, videos: Iterable[Tensor], quantizer: Quantizer) -> None:
        """Start at the d largest principal components of patches, and at the least squares from their codes to pixels.

        videos: float (B, 3, T, H, W) in [-1, 1]; some patches of each are kept. Raises PhenakiError if there
        are not enough.
        """
        pixels = [[linear.weight.new_empty(0, linear.in_features)] for linear in self.to_latents]
        rng = torch.Generator().manual_seed(0)
        for video in videos:
            for part, patch, kept in zip(video.tensor_split([1], dim=2), self.patches, pixels, strict=True):
                rows = patchify(part, patch).flatten(0, 3)
                kept.append(rows[torch.randperm(len(rows), generator=rng)[: _KEPT * len(video)]])
        for kept, *maps in zip(pixels, self.to_latents, self.to_pixels, strict=True):
            self._fit(torch.cat(kept), quantizer, *maps)

    def _fit(self, pixels: Tensor, quantizer: Quantizer, encoder: nn.Linear, decoder: nn.Linear) -> None:
        """pixels: (n, p*ph*pw*3)."""
        if len(pixels) <= pixels.shape[1]:
            raise PhenakiError(
                f"{len(pixels)} patches are too few for the principal components of {encoder.in_features} pixels: add "
                "clips, or set tokenizer.linear_skip=false"
            )
        inwards, outwards = quantizer.project_in, quantizer.project_out
        mean = pixels.mean(0)
        variances, components = torch.linalg.eigh(torch.cov(pixels.T).double())  # ascending
        count = min(inwards.out_features, len(variances))
        variances, components = variances[-count:].flip(0), components[:, -count:].flip(1)
        whiten = torch.zeros(inwards.out_features, len(mean), dtype=torch.float64)
        whiten[:count] = _SPREAD * (components / variances.clamp_min(1e-8).sqrt()).T
        latent = torch.linalg.pinv(inwards.weight.double())  # of a code, before the quantizer's projection
        encoder.weight.copy_(latent @ whiten)
        encoder.bias.copy_(latent @ (-whiten @ mean.double() - inwards.bias.double()))
        codes = quantizer(encoder(pixels)).after.double()
        ones = torch.ones_like(codes[:, :1])
        fitted = torch.linalg.lstsq(torch.cat((codes, ones), 1), pixels.double()).solution.T
        code = torch.linalg.pinv(outwards.weight.double())
        decoder.weight.copy_(fitted[:, :-1] @ code)
        decoder.bias.copy_(fitted[:, -1] - decoder.weight.double() @ outwards.bias.double())
