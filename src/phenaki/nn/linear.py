"""A linear layer for rows whose number changes from call to call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 64


class RaggedLinear(nn.Linear):
    """`nn.Linear` for x (M, D) of any M.

    On a CPU, under autocast to bfloat16, it works on M rounded up, by an eighth at most where M is large: there torch
    keeps a kernel for each M that it meets, and training on as many masked ids as chance has it grew by gigabytes
    (docs/log.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        rows = len(x)
        return super().forward(F.pad(x, (0, 0, 0, rounded(rows) - rows)))[:rows]


def rounded(rows: int) -> int:
    """The next larger of few numbers: eight between a power of two and the next."""
    step = max(_LEAST, 1 << max(rows.bit_length() - 4, 0))
    return -(-rows // step) * step
