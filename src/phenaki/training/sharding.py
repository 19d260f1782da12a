"""Sharded weights (torch's FSDP2): each process holds a shard of each matrix and kernel inside the layers.

Other weights (norms, embeddings, stems, heads) are small and replicated.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, empty

from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Precision, autocast
from phenaki.generators import FORWARD_METHODS, Generator

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


def mesh_of_all(device: torch.device) -> DeviceMesh:
    """A one-dimensional mesh of all processes."""
    return init_device_mesh(device.type, (dist.get_world_size(),))


def shardable(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The linear maps and convolutions of layers; each is gathered when it runs, wherever it is called from."""
    return [module for layer in layers for module in layer.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def shard(
    trained: Iterable[nn.Module], averages: Iterable[nn.Module], device: torch.device, precision: Precision
) -> None:
    """Keep only this process's shards of the layers of trained networks and of their averages.

    All processes must hold the same weights. Averages cannot run: `gather_full` makes copies that can.
    """
    mesh = mesh_of_all(device)
    with autocast(device, precision):  # autocast would keep bfloat16 copies until the backward pass
        dtype = torch.bfloat16 if torch.is_autocast_enabled(device.type) else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None)
    for module in shardable(trained):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    for module in shardable(averages):
        for name, parameter in list(module.named_parameters()):
            sharded = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(sharded, requires_grad=parameter.requires_grad))


def shard_root(generator: Generator, device: torch.device) -> None:
    """Let one root gather the shards of all layers of a generator, whichever of its entry points is called.

    Call it after `shard`. Weights outside the layers stay full.
    """
    replicated = {parameter for parameter in generator.parameters() if not is_sharded(parameter)}
    fully_shard(generator, mesh=mesh_of_all(device), ignored_params=replicated)
    for name in FORWARD_METHODS:
        register_fsdp_forward_method(generator, name)


def empty_shard(like: Tensor, mesh: DeviceMesh) -> Tensor:
    """An uninitialised tensor of the shape and dtype of `like`, laid out as by `shard`."""
    return empty(*like.shape, dtype=like.dtype, device_mesh=mesh, placements=[Shard(0)])


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
def gather_full(network: Network) -> Network:
    """The network, or, if it is sharded, a copy with full weights; all processes call."""
    if not any(map(is_sharded, network.parameters())):
        return network
    copy = deepcopy(network)
    for module in copy.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if is_sharded(parameter):
                module.register_parameter(name, nn.Parameter(parameter.full_tensor(), parameter.requires_grad))
    return copy
