"""The transformer of both stages of phenaki-pytorch and its forks. Parameters are named as in their checkpoints.

Shapes: B batch, t, h, w token grid, N positions, M keys, D width, H heads, K head width, L text length, C text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SCALE = 8.0  # of attention scores, which are cosines
NULL_KEYS = 2  # learned keys beside those of the text
KeysValues = tuple[Tensor, Tensor]


class Transformer(nn.Module):
    """Layers of position-generating convolution (with `peg`), self-attention, cross-attention (with a `context_width`)
    and feed-forward network."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        head_dim: int,
        hidden: int,
        peg: bool = True,
        peg_causal: bool = True,
        causal: bool = False,
        context_width: int = 0,
    ):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    Peg(width, peg_causal) if peg else nn.Identity(),
                    Attention(width, heads, head_dim),
                    CrossAttention(width, heads, head_dim, context_width) if context_width else nn.Identity(),
                    _feed_forward(width, hidden),
                )
            )
            for _ in range(layers)
        )
        self.norm_out = Norm(width)

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int, int, int],
        bias: Tensor | None = None,
        context: Sequence[KeysValues] = (),
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x: (_, N, D) -> (_, N, D), B t h w positions in total.

        grid: (B, t, h, w), the shape in which the convolutions see the positions. bias: (H, N, N), added to the scores
        of self-attention. context, context_mask: `CrossAttention.keys_values` of each layer, and its `mask`.
        """
        if self.causal:
            bias = _linear_bias(self.heads, x.shape[1], x.device)
        for number, (peg, attention, cross, feed_forward) in enumerate(self.layers):
            if isinstance(peg, Peg):
                x = x + peg(x, grid)
            x = x + attention(x, bias)
            if isinstance(cross, CrossAttention):
                x = x + cross(x, context[number], context_mask)
            x = x + feed_forward(x)
        return self.norm_out(x)


class Norm(nn.Module):
    """Layer normalization with a learned scale; the shift is a constant (zero) of the checkpoint."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    """The identity replaces the original's dropout, to keep the names of the weights."""
    widen, narrow = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
    return nn.Sequential(nn.LayerNorm(width), widen, _Gated(), nn.Identity(), narrow)


class _Gated(nn.Module):
    """(..., 2 F) -> (..., F) (2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * x


class Peg(nn.Module):
    """Position-generating convolution (2102.10882): depthwise, 3 x 3 x 3.

    `causal` pads only the past side. In temporal layers that does not make it causal: x is (B h w, t, D) there, and is
    viewed as (B, t, h, w, D) without permuting the axes, which mixes different times. Kept, since the weights were
    trained with it; it never mixes samples of a batch.
    """

    def __init__(self, width: int, causal: bool):
        super().__init__()
        self.before, self.after = (2, 0) if causal else (1, 1)
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, x: Tensor, grid: tuple[int, int, int, int]) -> Tensor:
        grid_x = x.reshape(*grid, -1).permute(0, 4, 1, 2, 3)
        out = self.dsconv(F.pad(grid_x, (1, 1, 1, 1, self.before, self.after)))
        return out.permute(0, 2, 3, 4, 1).reshape(x.shape)


class Attention(nn.Module):
    """Self-attention with cosine scores and per-dimension scales. Only the queries see the normalized input."""

    def __init__(self, width: int, heads: int, head_dim: int, context_width: int = 0):
        super().__init__()
        self.heads = heads
        self.norm = Norm(width)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(context_width or width, 2 * heads * head_dim, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x: (B, N, D) -> (B, N, D); bias: float (H, N, N) or None."""
        k, v = (self._split(half) for half in self.to_kv(x).chunk(2, dim=-1))
        return self._attend(x, (F.normalize(k, dim=-1) * self.k_scale, v), bias)

    def _attend(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        """x: (B, N, D); mask: broadcastable to (B, H, N, M), bool or added to the scores."""
        k, v = keys_values
        q = F.normalize(self._split(self.to_q(self.norm(x))), dim=-1) * self.q_scale
        if mask is not None and mask.is_floating_point():
            mask = mask.to(v.dtype)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask, scale=_SCALE)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossAttention(Attention):
    """Attention to a text, and to learned null keys that are never masked."""

    def __init__(self, width: int, heads: int, head_dim: int, context_width: int):
        super().__init__(width, heads, head_dim, context_width)
        self.context_norm = Norm(context_width)
        self.null_kv = nn.Parameter(torch.randn(heads, 2 * NULL_KEYS, head_dim))  # key, value, key, value

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor) -> Tensor:
        """x: (B, N, D) -> (B, N, D); mask: bool (B, N or 1, M), True where a position may see a key."""
        return self._attend(x, keys_values, mask[:, None])

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values (B, H, M, K) of a text (B, L, C), after the null keys."""
        k, v = self.to_kv(self.context_norm(context)).chunk(2, dim=-1)
        null_k, null_v = (self.null_kv[:, i::2].to(k.dtype).expand(len(context), -1, -1, -1) for i in (0, 1))
        k, v = torch.cat((null_k, self._split(k)), dim=2), torch.cat((null_v, self._split(v)), dim=2)
        return F.normalize(k, dim=-1) * self.k_scale, v


class PositionBias(nn.Module):
    """Continuous relative position bias (2111.09883): an MLP of the logarithm of the offset of two positions."""

    def __init__(self, axes: int, hidden: int, heads: int):
        super().__init__()
        self.net = nn.ModuleList(
            (
                nn.Sequential(nn.Linear(axes, hidden), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(hidden, hidden), nn.LeakyReLU(0.1)),
                nn.Linear(hidden, heads),
            )
        )

    def forward(self, grid: Sequence[int]) -> Tensor:
        """Grid sizes -> float (H, N, N). The MLP runs once per offset, not per pair."""
        device = self.net[-1].weight.device
        offsets = torch.cartesian_prod(*(torch.arange(1 - size, size, device=device) for size in grid)).float()
        table = offsets.view(-1, len(grid)).sign() * offsets.view(-1, len(grid)).abs().log1p()
        for layer in self.net:
            table = layer(table)
        # Row-major indices are linear in the coordinates, so the indices of two positions give that of their offset.
        indices = torch.arange(len(table), device=device).view([2 * size - 1 for size in grid])
        positions = indices[tuple(slice(size) for size in grid)].flatten()
        return table.T[:, positions[:, None] - positions + positions[-1]]


def _linear_bias(heads: int, length: int, device: torch.device) -> Tensor:
    """Causal ALiBi bias (2108.12409), (H, N, N): per-head slope times distance, -inf for later positions."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    slopes += [2.0 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)][: heads - power]
    steps = torch.arange(length, device=device)
    distance = steps[:, None] - steps
    bias = -distance * torch.tensor(slopes, device=device)[:, None, None]
    return bias.masked_fill(distance < 0, float("-inf"))
