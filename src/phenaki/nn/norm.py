"""Layer norm in the precision of its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` whose result has the type of its input (..., D) also where CUDA's autocast would make it float32,
    which moves twice the bytes. The statistics are float32 either way."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cuda"):
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            weight, bias = (None if each is None else each.to(x.dtype) for each in (self.weight, self.bias))
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def residual(x: Tensor) -> Tensor:
    """The embeddings that blocks add to: in the type of matrix products under CUDA's autocast, else as they are."""
    return x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x
