"""A device that counts what a GPU would do: its tensors lie in the CPU's memory, and say that they are on a GPU.

    with FakeGPU() as gpu:
        network.to(DEVICE)
        ...
    gpu.syncs, gpu.launches

It is torch's backend "PrivateUse1" under the name `fakegpu`. Waits of the host are those that
`torch.cuda.set_sync_debug_mode` reports on a real GPU: values that are read, results whose size depends on values, and
copies from memory that is not pinned.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

try:
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
except ImportError:  # torch 2.9
    _DummyBackendModule, _setup_privateuseone_for_python_backend = object, None

needs_fake_gpu = pytest.mark.skipif(_setup_privateuseone_for_python_backend is None, reason="needs a newer torch")
NAME = "fakegpu"
_WAIT = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
_WAIT |= {"unique_consecutive", "unique_dim_consecutive", "bincount", "allclose", "_unique"}
_NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh", "set_", "resize_"}
_ITEMS, _BLOCKS, _TENSORS = 1 << 16, 320, 110  # of a launch of torch's multi-tensor kernels
_PROJECT = Path(__file__).parents[2]


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True


DEVICE = torch.device("meta")
if _setup_privateuseone_for_python_backend is not None:
    _setup_privateuseone_for_python_backend(NAME, _Module())  # before torch's first backward, which counts devices
    DEVICE = torch.device(NAME, 0)


class DeviceTensor(Tensor):
    """A tensor on the fake device; `values` lie on the CPU, or on the meta device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(function, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.values!r})"


class FakeGPU(TorchDispatchMode):
    """`syncs`: a line for each wait of the host, with what called it. `launches`: how many kernels were started.
    `dtypes`: of all tensors that were made on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []
        self.launches = 0
        self.dtypes: set[torch.dtype] = set()
        self._pinned: dict[int, Tensor] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        if name == "is_pinned":
            return self._is_pinned(tensors[0])
        if name in ("_pin_memory", "pin_memory"):
            copy = tensors[0].clone()
            self._pinned[copy.untyped_storage()._cdata] = copy
            return copy
        if any(isinstance(tensor, DeviceTensor) for tensor in tensors) or _asks_for_device(kwargs):
            self._count(function, name, args, kwargs, tensors)
        made = _run(function, args, kwargs)
        self.dtypes |= {value.dtype for value in tree_flatten(made)[0] if isinstance(value, DeviceTensor)}
        return made

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, DeviceTensor) and tensor.untyped_storage()._cdata in self._pinned

    def _count(self, function: Any, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        if name in _WAIT or (name in ("index", "index_put", "index_put_") and _has_mask(args)):
            self._wait(name)
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            target = args[0] if name == "copy_" else None
            from_device = isinstance(source, DeviceTensor)
            to_device = isinstance(target, DeviceTensor) if name == "copy_" else _goes_to_device(kwargs, from_device)
            host = source if to_device else target
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            pinned = host is not None and (self._is_pinned(host) or host.ndim == 0 and name == "copy_" and to_device)
            if from_device != to_device and not (asynchronous and pinned):
                self._wait(f"copy {'to' if to_device else 'from'} the device")
        if name.startswith(("_foreach", "_fused")):
            self.launches += _multi_tensor_launches(args)
        elif name not in _NO_KERNEL and not _is_view(function):
            self.launches += 1

    def _wait(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(_PROJECT / "src"))]
        where = "; ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
        self.syncs.append(f"{what} ({where})")


def _run(function: Any, args: tuple, kwargs: dict) -> Any:
    """On the values; results are on the fake device unless they were copied from it."""
    flat, spec = tree_flatten((args, dict(kwargs)))
    wrappers = {id(value.values): value for value in flat if isinstance(value, DeviceTensor)}
    args, kwargs = tree_unflatten([value.values if isinstance(value, DeviceTensor) else value for value in flat], spec)
    meta = any(isinstance(value, DeviceTensor) and value.values.is_meta for value in flat)
    on_device = bool(wrappers)
    if (device := kwargs.get("device")) is not None:
        on_device = torch.device(device).type == NAME
        kwargs["device"] = torch.device("meta" if meta else "cpu") if on_device else device
        kwargs.pop("pin_memory", None)
    if meta and "_fused_" in function._schema.name:  # torch has none for the meta device
        return None
    made = function(*args, **kwargs)
    if function._schema.name == "aten::copy_":
        on_device = isinstance(flat[0], DeviceTensor)
    if not on_device:
        return made
    return tree_map(lambda value: _wrapped(value, wrappers) if isinstance(value, Tensor) else value, made)


def _wrapped(value: Tensor, wrappers: dict[int, DeviceTensor]) -> Tensor:
    return wrappers[id(value)] if id(value) in wrappers else DeviceTensor(value)


def _asks_for_device(kwargs: dict) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == NAME


def _goes_to_device(kwargs: dict, from_device: bool) -> bool:
    return from_device if kwargs.get("device") is None else _asks_for_device(kwargs)


def _has_mask(args: tuple) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _is_view(function: Any) -> bool:
    aliases = [result.alias_info for result in function._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _multi_tensor_launches(args: tuple) -> int:
    """Of the CUDA kernels for lists of tensors: so many tensors, and blocks of so many items, a launch."""
    tensors = [tensor for tensor in args[0] if isinstance(tensor, Tensor)]
    blocks = sum(-(-tensor.numel() // _ITEMS) for tensor in tensors)
    return max(-(-blocks // _BLOCKS), -(-len(tensors) // (_TENSORS >> min(3, len(args) - 1))))
