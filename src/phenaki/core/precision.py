"""Device and precision policy: float32 master weights, bfloat16 matrix products where they are faster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import cache
from typing import Literal, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from phenaki.core.config import quoted
from phenaki.core.errors import PhenakiError

Precision = Literal["auto", "float32", "bfloat16"]
Autocast = Callable[[], AbstractContextManager]
Network = TypeVar("Network", bound=nn.Module)


def best_device() -> torch.device:
    """CUDA if available, else Apple's MPS, else the CPU. Several processes on one machine (torchrun) take a GPU each,
    by LOCAL_RANK, also where the launcher shows each process its own GPU alone."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


_LARGE = 1 << 20  # bytes; the events of another stream cost more than a smaller copy
_simulated: ContextVar[str] = ContextVar("simulated", default="cuda")


@contextmanager
def simulated_hardware(name: str) -> Iterator[None]:
    """What the meta device stands for inside the block, "cuda" or "cpu"."""
    token = _simulated.set(name)
    try:
        yield
    finally:
        _simulated.reset(token)


def is_on_cpu(tensor: Tensor) -> bool:
    """Whether the kernels of the CPU are those to choose for it."""
    return tensor.is_cpu or (tensor.is_meta and _simulated.get() == "cpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; from the CPU to a GPU through pinned memory, so that nobody waits for the copy. What is
    large, such as the next batch, is copied on a stream of its own, while the step before it still runs."""
    if tensor.device.type != "cpu" or device.type in ("cpu", "meta", "mps"):
        return tensor.to(device)
    pinned = tensor.pin_memory()
    if device.type != "cuda" or tensor.nbytes < _LARGE:
        return pinned.to(device, non_blocking=True)
    stream, current = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        copied = pinned.to(device, non_blocking=True)
    current.wait_stream(stream)
    copied.record_stream(current)  # its memory belongs to the other stream, which must not use it again too early
    return copied


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" and "cuda" are `best_device`. Raises PhenakiError if it cannot be used."""
    if name == "auto" or (name == "cuda" and torch.cuda.is_available()):
        return best_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # depends on how torch was built
        raise PhenakiError(f"the device '{name}' cannot be used: {_first_sentence(error)}") from error


def move(networks: Sequence[nn.Module], device: str | int | torch.device) -> None:
    """Move networks to a device. Raises PhenakiError if it cannot be used."""
    try:
        for network in networks:
            network.to(device)
    except (
        RuntimeError,
        AssertionError,
        TypeError,
        ValueError,
    ) as error:  # depends on the build
        message = f"the model cannot be moved to the device {quoted(device)}: {_first_sentence(error)}"
        raise PhenakiError(message) from error


def _first_sentence(error: Exception) -> str:
    """What torch says, without its list of backends."""
    return str(error).strip().partition("\n")[0].partition(". ")[0]


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """The autocast region in which every forward pass of training and inference runs.

    "auto" is bfloat16 on CUDA and on CPUs with instructions for it (AMX, AVX512-BF16), float32 elsewhere. Losses,
    quantizers and softmax statistics stay in float32: the code that computes them casts.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bfloat16(device, precision))


def uses_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Whether `autocast` has an effect."""
    return precision == "bfloat16" or (precision == "auto" and prefers_bfloat16(device))


_cast: WeakKeyDictionary[nn.Module, tuple[object, ReferenceType[nn.Module]]] = WeakKeyDictionary()


def with_cast_weights(network: Network, device: torch.device, precision: Precision = "auto") -> Network:
    """A copy for many passes under `autocast`, which casts weights anew in every region: linear layers have weights of
    its type, all others share theirs with the network. Results are the same, bit for bit.

    While somebody holds the copy, all get the same until weights change: ask again after that. The network itself is
    returned where nothing is cast, if it is compiled, which fuses casts, and if its weights are inference tensors,
    which do not count their changes. All its linear layers must run under autocast.
    """
    if not uses_bfloat16(device, precision) or any("forward" in vars(module) for module in network.modules()):
        return network
    weights = list(network.parameters())
    if any(weight.is_inference() for weight in weights):
        return network
    version = [(weight.data_ptr(), weight._version) for weight in weights]
    held = _cast.get(network)
    if held is not None and held[0] == version and (copy := held[1]()) is not None:
        return copy
    copy = deepcopy(network, {id(tensor): tensor for tensor in (*weights, *network.buffers())})
    for layer in copy.modules():
        if isinstance(layer, nn.Linear):
            for name, weight in tuple(layer.named_parameters(recurse=False)):
                if weight.dtype == torch.float32:  # autocast leaves float64 as it is
                    setattr(layer, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))
    _cast[network] = version, ref(copy)
    return copy


def check_dtype(dtype: torch.dtype, dtypes: Sequence[torch.dtype], name: str) -> None:
    """Raise PhenakiError for weights of a type in which a network does not run."""
    if dtype not in dtypes:
        raise PhenakiError(
            f"the weights of {name} are {' or '.join(map(str, dtypes))}, not {dtype}: keep them, and set its precision "
            'to "bfloat16" for matrix products that are faster'
        )


def precision_of(dtype: torch.dtype | str) -> Precision:
    """The precision that a type of tensors, or its name, stands for. Raises PhenakiError for those in which networks do
    not run."""
    known: dict[str, Precision] = {"auto": "auto", "float32": "float32", "bfloat16": "bfloat16"}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        advice = " (float16 overflows where bfloat16 does not)" if name in ("float16", "half") else ""
        raise PhenakiError(f"models run in torch.bfloat16 or torch.float32, not in {dtype}{advice}")
    return known[name]


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones on this device (measured: docs/log.md)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
