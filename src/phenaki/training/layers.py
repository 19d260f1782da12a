"""How the blocks of a network run in training: compiled, checkpointed, sharded, or as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from phenaki.core.errors import PhenakiError
from phenaki.nn.block import blocks, check_compiles, compile_block
from phenaki.training.config import RunConfig
from phenaki.training.sharding import shard


def prepare_layers(
    networks: Sequence[nn.Module], config: RunConfig, device: torch.device, averages: Iterable[nn.Module] = ()
) -> None:
    """Apply run.compile, run.checkpointing and run.strategy to the blocks, before optimizers are made; names of weights
    stay. With fsdp, blocks of networks and averages keep their shards only.

    Raises PhenakiError if torch.compile does not work here.
    """
    compiles = compiles_blocks(config, device)
    if config.strategy == "fsdp":
        shard(networks, averages, device, config.precision)
    for block in blocks(networks):
        if compiles:
            compile_block(block)
        if config.checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def compiles_blocks(config: RunConfig, device: torch.device) -> bool:
    """Whether run.compile asks for it, or leaves it to the device. Raises PhenakiError if it cannot have it."""
    if config.compile is None and device.type == "cuda":
        with suppress(PhenakiError):
            check_compiles(device, "run.compile", "take run.compile=false")
            return True
    if config.compile:
        check_compiles(device, "run.compile", "take run.compile=false")
    return bool(config.compile)
