"""How the blocks of a network run in training: compiled, checkpointed, sharded, or as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from phenaki.core.errors import PhenakiError
from phenaki.nn.block import Block
from phenaki.training.config import RunConfig
from phenaki.training.sharding import shard

_MAX_SHAPES = 64  # shapes to compile before torch falls back to eager


def blocks(networks: Iterable[nn.Module]) -> list[Block]:
    """Every `Block` of the networks."""
    return [module for network in networks for module in network.modules() if isinstance(module, Block)]


def prepare_layers(
    networks: Sequence[nn.Module], config: RunConfig, device: torch.device, averages: Iterable[nn.Module] = ()
) -> None:
    """Apply run.compile, run.checkpointing and run.strategy to the blocks, before optimizers are made; names of weights
    stay. With fsdp, blocks of networks and averages keep their shards only.

    Raises PhenakiError if torch.compile does not work here.
    """
    compiles = compiles_blocks(config, device)
    if compiles:
        torch._dynamo.config.recompile_limit = _MAX_SHAPES
    if config.strategy == "fsdp":
        shard(networks, averages, device, config.precision)
    for block in blocks(networks):
        if compiles:
            block.forward = torch.compile(block.forward, dynamic=None if block.dynamic_lengths else False)
        if config.checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def compiles_blocks(config: RunConfig, device: torch.device) -> bool:
    """Whether run.compile asks for it, or leaves it to the device. Raises PhenakiError if it cannot have it."""
    if config.compile is None and device.type == "cuda":
        with suppress(PhenakiError):
            check_compiles(device)
            return True
    if config.compile:
        check_compiles(device)
    return bool(config.compile)


def check_compiles(device: torch.device) -> None:
    """Raise PhenakiError, naming what is missing, unless torch.compile works on the device."""
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    except Exception as error:  # of dynamo, inductor, the compiler, or Triton
        needed = "a C++ compiler such as g++" if device.type == "cpu" else "Triton and a C compiler such as gcc"
        raise PhenakiError(
            f"run.compile: torch.compile does not work here ({str(error).strip().splitlines()[0]}): install {needed}, "
            "or take run.compile=false"
        ) from error
