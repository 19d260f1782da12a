"""Pre-norm transformer blocks (1706.03762, with the norm before each branch)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from phenaki.nn.attention import HEAD_DIM, Attention
from phenaki.nn.block import Block
from phenaki.nn.norm import LayerNorm
from phenaki.nn.state import StreamState


class FeedForward(nn.Sequential):
    """MLP (..., D) -> (..., D) whose hidden layer is `ratio` times as wide."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__(
            LayerNorm(width, bias=False),
            nn.Linear(width, ratio * width, bias=False),
            nn.GELU(),
            nn.Linear(ratio * width, width, bias=False),
        )


class TransformerBlock(Block):
    """Self-attention (`window` as in `attend`), cross-attention (if `context_width` is set), then an MLP."""

    def __init__(self, width: int, ratio: int = 4, window: int | None = None, context_width: int | None = None):
        super().__init__()
        self.norm = LayerNorm(width, bias=False)
        self.attention = Attention(width, window=window)
        self.norm_cross = LayerNorm(width, bias=False) if context_width else None
        self.cross = Attention(width, context_width) if context_width else None
        self.feed_forward = FeedForward(width, ratio)

    def outside(self) -> Iterable[nn.Module]:
        """The keys and values of the context are computed once for all steps of decoding."""
        return () if self.cross is None else (self.cross.to_kv,)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        context: tuple[Tensor, Tensor] | None = None,
        context_mask: Tensor | None = None,
        state: StreamState | None = None,
    ) -> Tensor:
        """x: (B, N, D) -> (B, N, D), `mask`: bool (B, N), which positions may be seen; `context`: keys and values of
        `self.cross.keys_values` for M context positions, `context_mask`: bool (B, N or 1, M); `state`: of a stream."""
        x = x + self.attention(self.norm(x), rotary, mask, state)
        if self.cross is not None:
            x = x + self.cross.cross(self.norm_cross(x), context, context_mask)
        return x + self.feed_forward(x)


def initialize(module: nn.Module, depth: int) -> None:
    """Truncated normal with variance 1 / fan-in; the last matrix of each branch scaled by 1 / sqrt(2 depth) (GPT-2)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            std = parameter.shape[1] ** -0.5
            if name.endswith(("to_out.weight", "feed_forward.3.weight")):
                std /= (2 * depth) ** 0.5
            torch.nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def width_error(width: int) -> str | None:
    """Why a width is invalid for a transformer; None if it is valid."""
    if width <= 0 or width % HEAD_DIM:
        below = max(HEAD_DIM, width // HEAD_DIM * HEAD_DIM)
        return f"width {width} is not a multiple of the head width {HEAD_DIM}: use {below} or {below + HEAD_DIM}"
    return None
