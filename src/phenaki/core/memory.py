"""Networks are laid out without memory first: one that does not fit is refused before it takes any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from phenaki.core.errors import PhenakiError

_MOST_PARAMETERS = 20_000  # tensors of a network, which takes seconds to lay out; a transformer's layer has 10 to 20
_CGROUP = Path("/sys/fs/cgroup")


def lay_out(build: Callable[[], nn.Module], where: str) -> nn.Module:
    """The network on the meta device, where tensors have shapes and no data.

    Raises PhenakiError, which begins with `where`, for sizes of which no network can be built, and for one that is
    larger than the memory of this machine.
    """
    with without_memory(where):
        network = build()
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    needed, available = sum(tensor.nbytes for tensor in tensors.values()), available_memory()
    if available is not None and needed > available:
        raise PhenakiError(
            f"{where}: the network takes {needed / 2**30:,.1f} GiB of memory, and {available / 2**30:,.1f} are free: "
            "use smaller sizes or a larger machine"
        )
    return network


@contextmanager
def without_memory(where: str) -> Iterator[None]:
    """Networks made in this block are on the meta device, and refused as `lay_out` does, whatever their memory."""
    count = 0

    def check_count(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > _MOST_PARAMETERS:
            raise PhenakiError(f"{where}: the network has more than {_MOST_PARAMETERS:,} tensors: use fewer layers")

    hook = register_module_parameter_registration_hook(check_count)
    try:
        with torch.device("meta"), _Unfilled():
            yield
    except PhenakiError:
        raise
    except Exception as error:  # torch has many errors for sizes that it cannot hold
        reason = str(error).partition("\n")[0].rstrip(".")
        raise PhenakiError(f"{where}: no network can be built of these sizes: {reason}") from error
    finally:
        hook.remove()


class _Unfilled(TorchFunctionMode):
    """Weights are not filled with random numbers: on the meta device torch would import its compiler for that."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in ("normal_", "uniform_", "trunc_normal_"):
            return args[0] if args else kwargs["tensor"]
        if name in ("rand", "randn"):
            function = torch.empty
        return function(*args, **kwargs)


def available_memory() -> int | None:
    """Bytes that this process may still take, None where the system does not say."""
    limits = [number for number in (_free_on_machine(), _free_in_cgroup()) if number is not None]
    return min(limits, default=None)


def _free_on_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:  # macOS does not tell how much of it is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _free_in_cgroup() -> int | None:
    """Of a container's memory limit, in which the page cache counts as free."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # "max": there is no limit
        return None
    cache = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
    return max(0, limit - used + cache)
