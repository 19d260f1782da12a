"""Causal 3D convolution on channels-last clips (B, T, H, W, C), whole or in chunks.

The temporal window is stacked into channels, and the rest is a 2D convolution over frames, whose kernels are faster,
especially on CPUs (benchmarks/conv3d.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.nn.state import StreamState


class CausalConv3d(nn.Module):
    """Convolution over (time, rows, columns), zero-padded, in time only before the first frame.

    (B, T, H, W, inputs) -> (B, T / stride, H / stride, W / stride, outputs). With a temporal stride of s, output j
    depends on inputs up to (j + 1) s - 1. With `state`, x continues the previous chunk. Raises ValueError unless T is a
    multiple of the stride.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ):
        super().__init__()
        self.kernel, self.stride = kernel[0], stride[0]  # in time
        padding = [(size - step + 1) // 2 for size, step in zip(kernel[1:], stride[1:], strict=True)]
        self.frames = nn.Conv2d(inputs * self.kernel, outputs, kernel[1:], stride[1:], padding)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = self._windows(x, state)
        y = self.frames(x.flatten(0, 1).permute(0, 3, 1, 2))  # a view: channels-last in memory
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])

    def _windows(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(B, T, H, W, C) -> (B, t, H, W, kernel * C): the input frames of each output, stacked."""
        T = x.shape[1]
        if T % self.stride:
            raise ValueError(f"{T} frames are not a multiple of the temporal stride {self.stride}")
        if self.kernel == 1:
            return x[:, :: self.stride]
        before = self.kernel - self.stride
        if state is not None:
            x = state.prepend(self, x, before, dim=1)
        x = F.pad(x, (0, 0, 0, 0, 0, 0, before + T - x.shape[1], 0))
        return torch.cat([x[:, tap : tap + T : self.stride] for tap in range(self.kernel)], dim=-1)


class CausalUpsample3d(CausalConv3d):
    """Upsampling by `factor` (frames, rows, columns); each position is computed alone, so it is causal.

    (B, t, h, w, inputs) -> (B, t * factor, h * factor, w * factor, outputs)
    """

    def __init__(self, inputs: int, outputs: int, factor: tuple[int, int, int]):
        super().__init__(inputs, outputs * factor[0] * factor[1] * factor[2])
        self.factor = factor

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return depth_to_space(super().forward(x, state), self.factor)


def depth_to_space(x: Tensor, factor: tuple[int, int, int]) -> Tensor:
    """(B, t, h, w, p * ph * pw * C) -> (B, t * p, h * ph, w * pw, C)."""
    p, ph, pw = factor
    B, t, h, w, _ = x.shape
    x = x.view(B, t, h, w, p, ph, pw, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(B, t * p, h * ph, w * pw, -1)
