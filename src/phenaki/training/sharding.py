"""Sharded weights (torch's FSDP2): each process holds a shard of each matrix and kernel inside the blocks.

Other weights (norms, embeddings, stems, heads) are small and replicated.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from copy import deepcopy
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor, empty

from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Precision, autocast
from phenaki.generators import FORWARD_METHODS, Generator
from phenaki.nn.block import Block

Strategy = Literal["ddp", "fsdp"]
Network = TypeVar("Network", bound=nn.Module)


def check_shardable(optimizer: str, processes: int) -> None:
    """Raise PhenakiError for an optimizer that needs full matrices, and for a single process."""
    if optimizer == "muon":
        raise PhenakiError(
            "run.strategy fsdp: Muon needs full matrices, and each process would hold a shard: take "
            "optimizer.kind=adamw, or run.strategy=ddp"
        )
    if processes == 1:
        raise PhenakiError(
            "run.strategy fsdp shards the weights among several processes, and this is the only one: start more "
            "(torchrun --nproc-per-node 8 -m phenaki train ...), or take run.strategy=ddp"
        )


def sharding_mesh(device: torch.device) -> DeviceMesh:
    """All processes; of several machines, a row for each: weights are sharded within a machine, whose network is fast,
    and replicated across them (hybrid sharding)."""
    count, local_count = dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    if 1 < local_count < count and count % local_count == 0:
        return init_device_mesh(device.type, (count // local_count, local_count), mesh_dim_names=("machines", "shards"))
    return init_device_mesh(device.type, (count,), mesh_dim_names=("shards",))


def shardable(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The linear maps and convolutions of layers, whose weights are sharded."""
    return [module for layer in layers for module in layer.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def shard(
    networks: Iterable[nn.Module], averages: Iterable[nn.Module], device: torch.device, precision: Precision
) -> None:
    """Keep only this process's shards of the blocks of trained networks and of their averages.

    A block gathers its weights when it runs and scatters its gradients when it has run backward, while the next one is
    gathered; the root of a network, whose own weights stay full, sees to the order. What a generator computes from its
    context outside of the blocks' forward pass, `Block.outside`, is gathered by itself. All processes must hold the
    same weights. Averages cannot run: `gather_full` makes copies that can.
    """
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nobody changes them in place
    mesh = sharding_mesh(device)
    with autocast(device, precision):  # autocast would keep bfloat16 copies until the backward pass
        dtype = torch.bfloat16 if torch.is_autocast_enabled(device.type) else None
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None, cast_forward_inputs=False
    )
    for network in networks:
        blocks = [module for module in network.modules() if isinstance(module, Block)]
        sharded = {parameter for module in shardable(blocks) for parameter in module.parameters(recurse=False)}
        ignored = set(network.parameters()) - sharded
        for block in blocks:
            for module in block.outside():
                fully_shard(module, mesh=mesh, mp_policy=policy)
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=ignored)
        if blocks:
            fully_shard(network, mesh=mesh, mp_policy=policy, ignored_params=ignored)
            for name in FORWARD_METHODS if isinstance(network, Generator) else ():
                register_fsdp_forward_method(network, name)
    for module in shardable(
        module for average in averages for module in average.modules() if isinstance(module, Block)
    ):
        for name, parameter in list(module.named_parameters()):
            full = parameter.detach()
            sharded = distribute_tensor(full, mesh, _placements(mesh), src_data_rank=None)
            module.register_parameter(name, nn.Parameter(sharded, requires_grad=parameter.requires_grad))


def _placements(mesh: DeviceMesh) -> list[Placement]:
    return [Replicate()] * (mesh.ndim - 1) + [Shard(0)]


def empty_shard(like: Tensor, mesh: DeviceMesh) -> Tensor:
    """An uninitialised tensor of the shape and dtype of `like`, laid out as by `shard`."""
    return empty(*like.shape, dtype=like.dtype, device_mesh=mesh, placements=_placements(mesh))


def laid_out_as(like: Tensor | None, tensor: Tensor) -> Tensor:
    """A full tensor, the same in all processes, as `like` is: its shard if that is sharded."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def is_sharded(tensor: object) -> bool:
    return isinstance(tensor, DTensor)


def partition_sharded(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The full tensors, and the sharded ones: torch's list operations do not take a mixture."""
    tensors = list(tensors)
    return [t for t in tensors if not is_sharded(t)], [t for t in tensors if is_sharded(t)]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor in this process, its shard or all of it, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


@torch.no_grad()
def gather_full(network: Network, is_main: bool) -> Network | None:
    """The network, or, if it is sharded, a copy with full weights in the main process, None in the others; all call."""
    if not any(map(is_sharded, network.parameters())):
        return network
    copy = deepcopy(network) if is_main else None
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_sharded(parameter):
                full = parameter.full_tensor()
                if is_main:
                    copy.get_submodule(path).register_parameter(name, nn.Parameter(full, parameter.requires_grad))
    return copy
