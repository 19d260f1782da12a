"""The marker by which training finds the repeated parts of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from phenaki.core.errors import PhenakiError

_MAX_SHAPES = 64  # shapes to compile before torch falls back to eager


class Block(nn.Module):
    """A repeated part of a network: compiled, checkpointed, sharded, and its matrices given to Muon, as a unit.

    `dynamic_lengths`: whether torch.compile may leave the sequence length open instead of compiling once per shape.
    """

    dynamic_lengths: ClassVar[bool] = True

    def outside(self) -> Iterable[nn.Module]:
        """Its modules that are also called outside of its forward pass."""
        return ()


def blocks(networks: Iterable[nn.Module]) -> list[Block]:
    """Every `Block` of the networks."""
    return [module for network in networks for module in network.modules() if isinstance(module, Block)]


def compile_block(block: Block) -> None:
    """Run its forward pass through torch.compile from now on. Without CUDA graphs: their outputs are overwritten by the
    next call, and caches keep them."""
    torch._dynamo.config.recompile_limit = _MAX_SHAPES
    block.forward = torch.compile(block.forward, dynamic=None if block.dynamic_lengths else False)


def check_compiles(device: torch.device, option: str, way_out: str) -> None:
    """Raise PhenakiError, naming what is missing, unless torch.compile works on the device. option: what asked for it.
    way_out: the end of the sentence."""
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    except Exception as error:  # of dynamo, inductor, the compiler, or Triton
        needed = "a C++ compiler such as g++" if device.type == "cpu" else "Triton and a C compiler such as gcc"
        raise PhenakiError(
            f"{option}: torch.compile does not work here ({str(error).strip().splitlines()[0]}): install {needed}, or "
            f"{way_out}"
        ) from error
