"""The marker by which training finds the repeated parts of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import nn


class Block(nn.Module):
    """A repeated part of a network: compiled, checkpointed, sharded, and its matrices given to Muon, as a unit.

    `dynamic_lengths`: whether torch.compile may leave the sequence length open instead of compiling once per shape.
    """

    dynamic_lengths: ClassVar[bool] = True

    def outside(self) -> Iterable[nn.Module]:
        """Its modules that are also called outside of its forward pass."""
        return ()
