"""What the causal layers of a network remember between the pieces of a stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Past:
    """The memory of one network: time `steps` gone by, and of each causal layer what it needs of its earlier inputs.

    Whoever feeds the pieces counts the steps (`tokenizers/streaming.py`); a network sees by them whether a piece is the
    first.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._kept: dict[nn.Module, Tensor] = {}
        self._parts: dict[int, Past] = {}

    @property
    def bytes(self) -> int:
        """Bytes of memory that all that is kept takes."""
        own = sum(kept.untyped_storage().nbytes() for kept in self._kept.values())
        return own + sum(part.bytes for part in self._parts.values())

    def part(self, number: int) -> Past:
        """The memory of one of several runs of the network over the same steps, such as one tile of each frame."""
        part = self._parts.setdefault(number, Past())
        part.steps = self.steps
        return part

    def join(self, layer: nn.Module, x: Tensor, keep: int | None, dim: int) -> Tensor:
        """`x` with what `layer` kept of earlier pieces in front of it along `dim` (nothing, for the first piece).

        Of the result the last `keep` places (None: all; or all there are) are what `layer` keeps for the next piece.
        """
        if layer in self._kept:
            x = torch.cat((self._kept[layer], x), dim)
        keep = x.shape[dim] if keep is None else min(keep, x.shape[dim])
        self._kept[layer] = x.narrow(dim, x.shape[dim] - keep, keep).clone()  # a view would hold on to the whole piece
        return x


def begins(past: Past | None) -> bool:
    """Whether what a network is given is the beginning: a whole clip, or the first piece of a stream."""
    return past is None or past.steps == 0
