"""Which ids may be sampled: top-k, the nucleus (1904.09751, section 3.1), the typical set (2202.00666).

log_p float (M, V) are log-probabilities; an id that a filter removes gets -inf, and the rest is normalised again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def filtered(log_p: Tensor, top_k: int, top_p: float, typical_p: float) -> Tensor:
    """All filters in sequence; `top_k` 0, `top_p` 1 and `typical_p` 1 keep all ids."""
    if 0 < top_k < log_p.shape[-1]:
        log_p = top_k_filter(log_p, top_k)
    if top_p < 1:
        log_p = nucleus_filter(log_p, top_p)
    return typical_filter(log_p, typical_p) if typical_p < 1 else log_p


_LEAST = 1e-6  # mass: less is 0 in float32, and would keep no id


def top_k_filter(log_p: Tensor, count: int) -> Tensor:
    """The `count` most likely ids, and ties with the last of them."""
    least = log_p.topk(count, dim=-1).values[:, -1:]
    return _keep(log_p, log_p >= least)


def nucleus_filter(log_p: Tensor, mass: float) -> Tensor:
    """The fewest ids, most likely first, whose probabilities add up to `mass` (0..1]."""
    return _keep(log_p, _until_mass(log_p, -log_p, mass))


def typical_filter(log_p: Tensor, mass: float) -> Tensor:
    """The ids whose surprise -log p is nearest to the entropy, until their probabilities add up to `mass` (0..1].

    That removes the unlikely ids and, where the entropy is high, the most likely ones too.
    """
    entropy = torch.special.entr(log_p.exp()).sum(-1, keepdim=True)
    return _keep(log_p, _until_mass(log_p, (log_p + entropy).abs(), mass))


def _until_mass(log_p: Tensor, key: Tensor, mass: float) -> Tensor:
    """bool (M, V): the fewest ids, by rising `key` (M, V), whose probabilities add up to `mass`."""
    order = key.argsort(dim=-1, stable=True)
    up_to = log_p.exp().gather(-1, order).cumsum(-1)
    before = F.pad(up_to[:, :-1], (1, 0))
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before < max(mass, _LEAST))


def _keep(log_p: Tensor, kept: Tensor) -> Tensor:
    return log_p.masked_fill(~kept, float("-inf")).log_softmax(-1)
