"""The shards of a checkpoint: each process writes its own in the background, then the folder gets its name."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic, writing
from phenaki.training.processes import Processes
from phenaki.training.sharding import is_sharded

STATE = "state.pt"  # in the folder of a sharded checkpoint: everything but the values of sharded tensors

Value = TypeVar("Value")


@dataclass
class ShardedWrite:
    """A sharded checkpoint that a thread of each process is writing into a temporary folder."""

    step: int
    path: Path
    temporary: Path
    state: dict[str, Any]
    thread: threading.Thread | None = None
    sums: dict[str, int] = field(default_factory=dict)
    failure: Exception | None = None

    def write(self, rank: int, group: dist.ProcessGroup) -> None:
        try:
            self.sums = _write_shards(self.temporary, self.path, self.state, rank, group)
        except Exception as error:  # in a thread: `result` raises it
            self.failure = error

    def result(self) -> dict[str, int]:
        """Checksums of the files of this process."""
        if self.failure is not None:
            raise self.failure
        return self.sums


def copied(_: str, tensor: Tensor) -> Tensor:
    """On the CPU."""
    return tensor.detach().to("cpu", copy=True)


def _write_shards(
    temporary: Path, path: Path, state: dict[str, Any], rank: int, group: dist.ProcessGroup
) -> dict[str, int]:
    """Write the shards of this process into the temporary folder, as all others do; returns checksums by file."""
    shards: dict[str, Tensor] = {}
    mapped(state, lambda name, tensor: shards.update({name: tensor}) if is_sharded(tensor) else None)
    with writing(path):
        try:
            writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
            dcp.save(shards, storage_writer=writer, process_group=group)
        except CheckpointException as error:  # raised in all processes if any failed
            raise next(iter(error.failures.values()))[0] from error
        return {file.name: checksum_of(file) for file in temporary.glob(f"shard-{rank + 1:05}-*")}


def name_folder(temporary: Path, path: Path, state: dict[str, Any], sums: dict[str, int]) -> None:
    """Write state.pt beside the shards of all processes, and rename the folder."""
    if missing := sorted(name for name in sums if not (temporary / name).exists()):
        raise PhenakiError(
            f"this process does not see {', '.join(missing)}, which others wrote: with run.strategy fsdp the "
            "run's folder must be on a disk that all machines see"
        )

    def outline(name: str, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if is_sharded(tensor) else tensor.detach()

    with write_atomic(temporary / STATE) as file:
        save_archive(mapped(state, outline) | {"shards": sums}, file)
    with writing(path):
        os.rename(temporary, path)


def in_all(processes: Processes, work: Callable[[], Value]) -> list[Value]:
    """The result of `work` in each process; a PhenakiError in any is raised in all."""
    try:
        done, failure = work(), None
    except PhenakiError as error:
        done, failure = None, str(error)
    results = processes.gather((done, failure))
    for _, failure in results:
        if failure is not None:
            raise PhenakiError(failure)
    return [done for done, _ in results]


def save_archive(state: dict[str, Any], file: IO[bytes]) -> None:
    """`torch.save`, which replaces an OSError, such as that of a full disk, by its own: here it is raised."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def checksum_of(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 24):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def mapped(value: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """Map the tensors in nested dictionaries, lists and tuples; a tensor's name is its path."""
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, dict):
        return {key: mapped(item, change, f"{name}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, change, f"{name}/{index}") for index, item in enumerate(value))
    return value
