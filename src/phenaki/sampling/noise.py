"""The random numbers of sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Rng = torch.Generator | Sequence[torch.Generator]
"""For all samples, or one for each sample, which then does not depend on the others."""


def uniform(counts: Tensor, rng: Rng, device: torch.device) -> Tensor:
    """float (M,) in [0, 1): `counts` int64 (B,), on the CPU, numbers for each sample."""
    if isinstance(rng, torch.Generator):
        return torch.rand(int(counts.sum()), generator=rng, device=device)
    pairs = zip(counts.tolist(), rng, strict=True)
    return torch.cat([torch.rand(count, generator=each, device=device) for count, each in pairs])
