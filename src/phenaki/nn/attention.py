"""Multi-head attention, with the choice of kernel in one place.

Shapes: B batch, N queries, M keys, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.nn.norm import LayerNorm
from phenaki.nn.positions import rotate
from phenaki.nn.state import StreamState

HEAD_DIM = 64  # fewer, wider heads: the softmax over N * M * H scores is what costs on a CPU
_SCORES = 12 << 20  # at once: 24 MB in bfloat16; from 32 MB on, malloc maps new memory each time, at half the speed


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, window: int | None = None) -> Tensor:
    """Attention of q (B, H, N, K) over k, v (B, H, M, K).

    mask: bool (B, 1, N or 1, M), True where a query may attend to a key. window: a query attends to the last `window`
    keys up to its own position (banded causal), queries being the last N of the M positions; None: to all keys. With
    both, both must allow a key.

    The kernel is chosen by measurement (benchmarks/attention.py): in bfloat16 on a CPU, the fused kernel trains 1.3 to
    5 times as slowly as three plain operations; everywhere else it is faster.
    """
    N, M = q.shape[-2], k.shape[-2]
    fused = q.device.type != "cpu" or q.dtype != torch.bfloat16
    causal = window is not None and fused and mask is None and N == M <= window
    if window is not None and not causal:  # the fused kernel takes either a mask or `is_causal`
        seen = torch.ones(N, M, dtype=torch.bool, device=q.device).tril(M - N).triu(M - N - window + 1)
        mask = seen if mask is None else seen & mask
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return _plain(q, k, v, mask)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` by three operations, split over heads, then over queries, until the scores fit in _SCORES."""
    B, H, N = q.shape[:3]
    many = B * H * N * k.shape[-2] > _SCORES
    if many and H > 1:
        halves = zip(*(x.chunk(2, dim=1) for x in (q, k, v)), strict=True)
        return torch.cat([_plain(*half, mask) for half in halves], dim=1)
    if many and N > 1:
        masks = (mask, mask) if mask is None or mask.shape[-2] == 1 else mask.chunk(2, dim=-2)
        halves = zip(q.chunk(2, dim=2), masks, strict=True)
        return torch.cat([_plain(half, k, v, seen) for half, seen in halves], dim=2)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v  # the CPU's bfloat16 softmax accumulates in float32


class Attention(nn.Module):
    """Self-attention, or cross-attention if `context_width` is set, with QK norm per head (2302.05442, section 2).

    QK norm bounds the logits, which keeps high learning rates stable. `window` is that of `attend`.
    """

    def __init__(self, width: int, context_width: int | None = None, window: int | None = None):
        super().__init__()
        self.heads = width // HEAD_DIM
        self.window = window
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context_width or width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm_q = LayerNorm(HEAD_DIM, bias=False)
        self.norm_k = LayerNorm(HEAD_DIM, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        state: StreamState | None = None,
    ) -> Tensor:
        """x (B, N, D) -> (B, N, D).

        rotary: `rotary_table` of the N positions, preceded by those in `state`. mask: bool (B, N), False at padding.
        state: keys and values of the last window - 1 positions of a stream, not rotated, as only distances count.
        """
        q = self.norm_q(self._heads(self.to_q(x))).transpose(1, 2)
        kv = self.to_kv(x)
        if state is not None:
            kv = state.prepend(self, kv, keep=self.window - 1, dim=1)
        k, v = self._keys_values(kv)
        if rotary is not None:
            q, k = rotate(q, tuple(part[-x.shape[1] :] for part in rotary)), rotate(k, rotary)
        if mask is not None:
            mask = mask[:, None, None, :]
        return self._merge(attend(q.to(v.dtype), k.to(v.dtype), v, mask, self.window))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, M, K) of a context (B, M, C), which all decoding steps reuse."""
        return self._keys_values(self.to_kv(context))

    def cross(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Attention of x (B, N, D) over keys and values of a context; mask: bool (B, N or 1, M), True where a query may
        see a key."""
        k, v = keys_values
        q = self.norm_q(self._heads(self.to_q(x))).transpose(1, 2)
        return self._merge(attend(q.to(v.dtype), k.to(v.dtype), v, mask=mask[:, None]))

    def _keys_values(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        k, v = kv.chunk(2, dim=-1)
        return self.norm_k(self._heads(k)).transpose(1, 2), self._heads(v).transpose(1, 2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, HEAD_DIM))

    def _merge(self, x: Tensor) -> Tensor:
        return self.to_out(x.transpose(1, 2).flatten(2))
