"""Multi-head attention, with the choice of kernel in one place.

Shapes: B batch, N queries, M keys, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.nn.past import Past
from phenaki.nn.positions import rotate

HEAD_DIM = 64  # fewer, wider heads: the softmax over N * M * H scores is what costs on a CPU
_SCORES = 12 << 20  # at a time: 24 MB in bfloat16; 32 MB and more come anew from the system, at half the speed


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """Attention of q (B, H, N, K) over k, v (B, H, M, K); mask: bool (B, 1, N or 1, M), True where a key may be seen;
    `causal`: only keys up to the query's own position, the queries being the last N of the M positions; `window`: of
    those only the last so many, the query's own included. A key is seen where all of them allow it.

    The kernel is chosen by measurement (benchmarks/attention.py): on a CPU in bfloat16 the fused kernel is 1.3 to 5
    times as slow to train as the three plain operations; everywhere else it is the faster one.
    """
    N, M = q.shape[-2], k.shape[-2]
    fused = q.device.type != "cpu" or q.dtype != torch.bfloat16
    banded = window is not None and window < M
    if causal and not (fused and mask is None and N == M and not banded):  # the fused kernel has no band of its own
        seen = causal_mask(N, M, window, q.device)
        mask, causal = seen if mask is None else seen & mask, False
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return _plain(q, k, v, mask)


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """bool (queries, keys), True where a key may be seen: up to the query's own position, the queries being the last
    positions, and of those the last `window` (None: all)."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` by three operations: of half the heads, or else half the queries, at a time where scores are many."""
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
    """Self-attention, or cross-attention when `context_width` is given; queries and keys are normalised per head.

    Normalised queries and keys (2302.05442, section 2) bound the logits, which keeps high learning rates stable.
    `causal` and `window` are those of `attend`.
    """

    def __init__(self, width: int, context_width: int | None = None, causal: bool = False, window: int | None = None):
        super().__init__()
        self.heads = width // HEAD_DIM
        self.causal, self.window = causal, window
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context_width or width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm_q = nn.LayerNorm(HEAD_DIM, bias=False)
        self.norm_k = nn.LayerNorm(HEAD_DIM, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """x: (B, N, D) -> (B, N, D); `rotary` as `rotary_table` makes it for the N positions; `mask`: bool (B, N), True
        where there is something to see; `past`: of a stream, whose last window - 1 positions (all there are, if fewer)
        come before the N, in `rotary` too. Its keys are kept unrotated, since only distances count."""
        q = self.norm_q(self._split(self.to_q(x)))
        kv = self.to_kv(x)
        if past is not None:
            kv = past.join(self, kv, keep=self.window and self.window - 1, dim=1)
        k, v = self._keys_values(kv)
        if rotary is not None:
            q, k = rotate(q, tuple(part[-x.shape[1] :] for part in rotary)), rotate(k, rotary)
        if mask is not None:
            mask = mask[:, None, None, :]
        return self._merge(attend(q.to(v.dtype), k.to(v.dtype), v, mask, self.causal, self.window))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, M, K) of a context (B, M, C): computed once for all steps of a decoding."""
        return self._keys_values(self.to_kv(context))

    def cross(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Attention of x (B, N, D) over keys and values of a context; mask: bool (B, M), True where there is text."""
        k, v = keys_values
        q = self.norm_q(self._split(self.to_q(x)))
        return self._merge(attend(q.to(v.dtype), k.to(v.dtype), v, mask=mask[:, None, None, :]))

    def _keys_values(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        k, v = kv.chunk(2, dim=-1)
        return self.norm_k(self._split(k)), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return self.to_out(x.transpose(1, 2).flatten(2))
