"""Counting the operations and the memory of code that runs on the meta device, where tensors have no data."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from phenaki.core.precision import Precision, prefers_bfloat16, simulated_hardware

Hardware = Literal["cuda", "cpu"]


def _attention_flops(q: Tensor, k: Tensor, v: Tensor) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Flops(TorchDispatchMode):
    """Counts the floating-point operations inside the block: `.total`, by torch's formulas.

    Unlike `FlopCounterMode` it counts the CPU's fused attention, and allows second derivatives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function._overloadpacket is _ATTENTION:
            self.total += _attention_flops(*args[:3])
        elif function._overloadpacket is _ATTENTION_BACKWARD:
            self.total += 2 * _attention_flops(*args[1:4])
        elif formula := flop_registry.get(function._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=made)
        return made


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside the block hold at once: `.bytes` without the gradients of parameters, and
    `.with_gradients`. Meta tensors count as if they had memory."""

    def __init__(self, parameters: Iterable[Tensor]):
        super().__init__()
        self.bytes = self.with_gradients = 0
        self._now = self._gradients = 0
        self._alive: set[int] = set()
        self._weights: set[int] = set()  # their storages, as views of them take no memory
        for parameter in parameters:
            self._weights.add(parameter.untyped_storage()._cdata)
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._exclude)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._track(tensor.untyped_storage())
        self.bytes = max(self.bytes, self._now)
        self.with_gradients = max(self.with_gradients, self._now + self._gradients)
        return made

    def _track(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive and key not in self._weights:
            self._alive.add(key)
            self._now += storage.nbytes()
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        if key in self._alive:
            self._alive.remove(key)
            self._now -= size

    def _exclude(self, parameter: Tensor) -> None:
        storage = parameter.grad.untyped_storage()
        if storage._cdata in self._alive:
            self._freed(storage._cdata, storage.nbytes())
            self._gradients += storage.nbytes()


_NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh"}


class Traffic(TorchDispatchMode):
    """Counts the kernels inside the block and the bytes that they read and write: `.launches`, `.matrix_bytes` of
    matrix products, convolutions and attention, `.other_bytes` of all others. Views cost nothing.

    While `fused` is set other kernels count as torch.compile fuses them: all between two matrix products are one, which
    reads what was made before it and writes what is needed after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.matrix_bytes = self.other_bytes = 0
        self.fused = False
        self._kernel = 0  # the number of the fused kernel
        self._made: dict[int, int] = {}  # by which fused kernel each storage was made that is not yet written
        self._read: set[int] = set()  # storages that the fused kernel has read

    def fuse(self, blocks: Iterable[nn.Module]) -> None:
        """Count the forward and backward passes of these modules as fused."""

        def turn(on: bool) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self._end_kernel()
                self.fused = on

            return hook

        for block in blocks:
            block.register_forward_pre_hook(turn(True))
            block.register_forward_hook(turn(False))
            block.register_full_backward_pre_hook(turn(True))
            block.register_full_backward_hook(turn(False))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        inputs = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, Tensor)]
        outputs = [value for value in tree_leaves(made) if isinstance(value, Tensor)]
        if self._is_free(function, inputs, outputs):
            return made
        packet = function._overloadpacket
        is_matrix = packet in flop_registry or packet in (_ATTENTION, _ATTENTION_BACKWARD)
        if self.fused and not is_matrix:
            self._fuse(inputs, outputs)
            return made
        self._end_kernel()
        self.launches += 1
        self.other_bytes += sum(self._write(tensor) for tensor in inputs)
        moved = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs))
        if is_matrix:
            self.matrix_bytes += moved
        else:
            self.other_bytes += moved
        return made

    @staticmethod
    def _is_free(function: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        if function._overloadpacket.__name__ in _NO_KERNEL:
            return True
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        is_view = all(tensor.untyped_storage()._cdata in known for tensor in outputs)
        return bool(outputs) and is_view and not function._schema.is_mutable

    def _fuse(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if not self._kernel_is_open:
            self._kernel, self._kernel_is_open = self._kernel + 1, True
            self.launches += 1
        for tensor in inputs:
            key = tensor.untyped_storage()._cdata
            if self._made.get(key) == self._kernel or key in self._read:
                continue
            self.other_bytes += self._write(tensor) + _bytes(tensor)
            self._read.add(key)
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made:
                weakref.finalize(storage, self._made.pop, storage._cdata, None)
            self._made[storage._cdata] = self._kernel

    _kernel_is_open = False

    def _end_kernel(self) -> None:
        self._kernel_is_open = False
        self._read.clear()

    def _write(self, tensor: Tensor) -> int:
        """Bytes of a tensor that a fused kernel made and that another needs, the first time that one does."""
        return _bytes(tensor) if self._made.pop(tensor.untyped_storage()._cdata, None) is not None else 0


def _bytes(tensor: Tensor) -> int:
    """That a kernel moves to read or write the tensor: expanded ones lie in memory once."""
    count = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)
    return count * tensor.element_size()


_IN_BFLOAT16 = {F.linear, F.conv2d, F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}


class HardwareMode(TorchFunctionMode):
    """Makes the meta device run what the hardware would run in the precision of training.

    Attention is the kernel that `nn/attention.py: attend` chooses; inside `autocast()` matrix products are bfloat16,
    each weight being cast once, and norms on GPUs float32.
    """

    def __init__(self, hardware: Hardware, precision: Precision):
        super().__init__()
        self._gpu = hardware == "cuda"
        automatic = self._gpu or prefers_bfloat16(torch.device("cpu"))
        self._bfloat16 = precision == "bfloat16" or (precision == "auto" and automatic)
        self._casts: dict[int, Tensor] = {}
        self._simulated: list[AbstractContextManager[None]] = []  # for each time that the mode was entered

    def __enter__(self) -> HardwareMode:
        self._simulated.append(simulated_hardware("cuda" if self._gpu else "cpu"))
        self._simulated[-1].__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._simulated.pop().__exit__(*error)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        flag = "cuda" if self._gpu else "cpu"  # which code that stays in float32 clears
        torch.set_autocast_enabled(flag, self._bfloat16)
        torch.set_autocast_dtype(flag, torch.bfloat16)
        yield
        torch.set_autocast_enabled(flag, False)
        self._casts.clear()

    @contextmanager
    def recompute(self) -> Iterator[None]:
        """As in the forward pass, for blocks that run again in the backward pass."""
        with torch.device("meta"), self, self.autocast():
            yield

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.is_autocast_enabled("cuda" if self._gpu else "cpu"):
            if function in _IN_BFLOAT16:
                args = tuple(self._cast(value, torch.bfloat16) for value in args)
            elif function is F.layer_norm and self._gpu:
                args = tuple(self._cast(value, torch.float32) for value in args)
        if function is F.scaled_dot_product_attention:
            return self._attention(*args, mask=(kwargs or {})["attn_mask"])
        return function(*args, **(kwargs or {}))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self._gpu or q.dtype != torch.bfloat16:  # fused: no scores are stored
            return _ATTENTION(q, k, v)[0]
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1) @ v

    def _cast(self, value: Any, kind: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == kind:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(kind)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(kind)
        return self._casts[id(value)]
