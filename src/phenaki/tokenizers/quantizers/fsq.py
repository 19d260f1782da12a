"""Finite scalar quantization (2309.15505)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.tokenizers.quantizers.base import Quantizer, QuantizerConfig


class FSQ(Quantizer):
    """Each of d dimensions is bounded and rounded to one of its levels. The dimensions are split evenly over the
    codebooks; the first of each is the lowest digit of an id.

    There is no learned codebook, hence no loss and no dead codes.
    """

    def __init__(self, config: QuantizerConfig, width: int):
        super().__init__(config, width, len(config.levels))
        size = len(config.levels) // config.num_codebooks
        # In Python: on the meta device, where models are laid out first, torch would import its compiler for this.
        strides = [math.prod(config.levels[i - i % size : i]) for i in range(len(config.levels))]
        self.register_buffer("_levels", torch.tensor(config.levels), persistent=False)
        self.register_buffer("_strides", torch.tensor(strides), persistent=False)

    def quantize(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # tanh spans (-0.5, L - 0.5), so each of the L levels gets an equal interval.
        unit = torch.tanh(projected)
        position = (unit + 1) / 2 * self._levels - 0.5
        index = position.round().clamp(torch.zeros_like(self._levels), self._levels - 1)
        digits = (index.long() * self._strides).unflatten(-1, (self.num_codebooks, -1))
        ids = digits.sum(-1)
        return unit, self._value(index), ids.flatten(-2) if self.num_codebooks > 1 else ids.squeeze(-1)

    def indices_to_codes(self, ids: Tensor) -> Tensor:
        ids = ids.unflatten(-1, (-1, self.num_codebooks)) if self.num_codebooks > 1 else ids[..., None]
        size = len(self._levels) // self.num_codebooks
        return self._value(ids.repeat_interleave(size, dim=-1) // self._strides % self._levels)

    def levels_of_codes(self) -> Tensor:
        """float (codebooks, codes, levels): 1 where a code of a codebook has a level of one of its dimensions."""
        levels = self._levels.view(self.num_codebooks, -1).tolist()
        strides = self._strides.view(self.num_codebooks, -1).tolist()
        codes = torch.arange(self.vocab_size)
        of_each = [
            torch.cat([F.one_hot(codes // stride % level, level) for level, stride in zip(*both, strict=True)], dim=-1)
            for both in zip(levels, strides, strict=True)
        ]
        width = max(each.shape[-1] for each in of_each)
        return torch.stack([F.pad(each, (0, width - each.shape[-1])) for each in of_each]).float()

    def _value(self, index: Tensor) -> Tensor:
        """Levels 0..L-1 -> the middle of their interval of (-1, 1)."""
        return (index + 0.5) / self._levels * 2 - 1
