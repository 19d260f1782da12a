"""Which ids may be drawn: the k likeliest, the nucleus (1904.09751, section 3.1), the typical ones (2202.00666).

log_p float (M, V) are log-probabilities; what a filter leaves out becomes -inf, and the rest sums to 1 again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def filtered(log_p: Tensor, top_k: int, top_p: float, typical_p: float) -> Tensor:
    """All filters in a row, each over what those before it left; `top_k` 0, `top_p` 1 and `typical_p` 1 leave all."""
    if 0 < top_k < log_p.shape[-1]:
        log_p = likeliest(log_p, top_k)
    if top_p < 1:
        log_p = nucleus(log_p, top_p)
    return typical(log_p, typical_p) if typical_p < 1 else log_p


def likeliest(log_p: Tensor, count: int) -> Tensor:
    """The `count` likeliest ids, and those that are exactly as likely as the last of them."""
    least = log_p.topk(count, dim=-1).values[:, -1:]
    return _only(log_p, log_p >= least)


def nucleus(log_p: Tensor, mass: float) -> Tensor:
    """The fewest ids whose probabilities add up to `mass` (0..1]: the likeliest ones."""
    return _only(log_p, _first(log_p, -log_p, mass))


def typical(log_p: Tensor, mass: float) -> Tensor:
    """The ids that say about as much as is to be expected, until their probabilities add up to `mass` (0..1].

    Those first whose surprise -log p is nearest to the entropy: neither the unlikely nor, where much is open, the
    likeliest.
    """
    entropy = torch.special.entr(log_p.exp()).sum(-1, keepdim=True)
    return _only(log_p, _first(log_p, (log_p + entropy).abs(), mass))


def _first(log_p: Tensor, key: Tensor, mass: float) -> Tensor:
    """bool (M, V): the fewest ids, by rising `key` (M, V), whose probabilities add up to `mass`."""
    order = key.argsort(dim=-1, stable=True)
    up_to = log_p.exp().gather(-1, order).cumsum(-1)
    before = F.pad(up_to[:, :-1], (1, 0))
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before < mass)


def _only(log_p: Tensor, kept: Tensor) -> Tensor:
    return log_p.masked_fill(~kept, float("-inf")).log_softmax(-1)
