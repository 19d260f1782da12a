"""A linear layer for a varying number of rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 64


class RaggedLinear(nn.Linear):
    """`nn.Linear` for x (M, D) of varying M.

    On a CPU under bfloat16 autocast, large M are padded by up to an eighth: torch caches a kernel for every M, and
    training on a random number of masked ids grew by gigabytes (docs/log.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        rows = len(x)
        return super().forward(F.pad(x, (0, 0, 0, rounded(rows) - rows)))[:rows]


def rounded(rows: int) -> int:
    """`rows` rounded up to one of eight sizes per power of two, 64 or more."""
    step = max(_LEAST, 1 << max(rows.bit_length() - 4, 0))
    return -(-rows // step) * step
