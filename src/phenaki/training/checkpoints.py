"""The checkpoints of a run: each is written to a temporary name while training continues, verified, then renamed.

One file, as what is written here is what is read here.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from phenaki.core.errors import PhenakiError
from phenaki.core.files import UNFINISHED, write_atomic, writing
from phenaki.core.reading import open_regular
from phenaki.core.version import __version__
from phenaki.training.checkpoint_shards import (
    STATE,
    ShardedWrite,
    checksum_of,
    copied,
    in_all,
    mapped,
    name_folder,
    save_archive,
)
from phenaki.training.processes import Processes
from phenaki.training.sharding import empty_shard

FOLDER = "checkpoints"
_FORMAT = 3
_NAME = re.compile(r"step_(\d+)(\.pt)?")  # sharded checkpoints are folders

Value = TypeVar("Value")


class NewerVersionError(PhenakiError):
    """A checkpoint of a version to come: it is not passed over for an older one, as it is not damaged."""


@dataclass(frozen=True)
class Content:
    """A complete checkpoint: its path, and the size of its file, or of state.pt in its folder."""

    path: Path
    size: int

    @property
    def state(self) -> Path:
        return self.path / STATE if self.path.is_dir() else self.path

    def is_here(self) -> bool:
        """Whether this machine sees it too."""
        return self.state.is_file() and self.state.stat().st_size == self.size


class Checkpoints:
    """The checkpoints of a run, checkpoints/step_0000250.pt: the newest `keep`, and all at multiples of `keep_every`.

    A sharded one is a folder checkpoints/step_0000250 of state.pt and the shards of each process as safetensors. If
    one cannot be written, `say` gets the reason and the older ones stay.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int, say: Callable[[str], None]):
        self.folder = folder / FOLDER
        self._keep, self._keep_every, self._say = keep, keep_every, say
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None
        self._sharded: ShardedWrite | None = None
        self._group: dist.ProcessGroup | None = None

    def found(self) -> list[Path]:
        """Newest first."""
        files = [path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name)]
        return sorted(files, key=step_of, reverse=True)

    def newest(self) -> Content | None:
        """The newest complete one, None if there is none. Broken ones are named and skipped.

        Raises PhenakiError if all are broken, and for one that a newer version wrote.
        """
        return next(self.intact(), None)

    def intact(self) -> Iterator[Content]:
        """All complete ones, as `newest` finds them: whoever cannot use one may take the next.

        Raises PhenakiError after the last one if any was broken.
        """
        files, broken = self.found(), ""
        for path in files:
            try:
                content = read(path)
                _check_step(_unpickled(content), path)
            except NewerVersionError:
                raise
            except PhenakiError as error:
                broken = str(error)
                self._say(f"skipped: {broken}")
            else:
                yield content
        if broken:
            raise PhenakiError(
                f"no checkpoint in '{self.folder}' is complete ({broken}): start over with --resume never --overwrite"
            )

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state, and write it in the background; one at a time."""
        self.join()
        state = mapped(_described(step, state), copied)
        self._failure = None
        self._writer = threading.Thread(target=self._write, args=(step, state), name="checkpoint")
        self._writer.start()

    def save_sharded(self, step: int, state: dict[str, Any], processes: Processes) -> None:
        """Copy the state, and write it and the shards of all processes, which all call, in the background.

        `finish_sharded` gives the folder its name, once all have written.
        """
        self.finish_sharded(processes, wait=True)
        temporary = self.folder / processes.from_main(UNFINISHED.replace("*", secrets.token_hex(6)))
        group = self._group = self._group or dist.new_group(backend="gloo")  # beside the training's collectives
        path, content = self.folder / f"step_{step:07d}", mapped(_described(step, state), copied)
        self._failure = None
        self._sharded = ShardedWrite(step, path, temporary, content)
        write = lambda sharded: sharded.write(processes.rank, group)  # noqa: E731
        self._sharded.thread = threading.Thread(target=write, args=(self._sharded,), name="checkpoint", daemon=True)
        self._sharded.thread.start()

    def finish_sharded(self, processes: Processes, wait: bool = False) -> None:
        """Name the checkpoint that `save_sharded` has begun, if all processes have written; all call."""
        if self._sharded is None or (not wait and processes.any(self._sharded.thread.is_alive())):
            return
        sharded, self._sharded = self._sharded, None
        sharded.thread.join()
        try:
            written = in_all(processes, sharded.result)
            sums = {name: checksum for files in written for name, checksum in files.items()}
            in_all(
                processes,
                lambda: processes.is_main and name_folder(sharded.temporary, sharded.path, sharded.state, sums),
            )
        except PhenakiError as error:
            self._failure = error
            if processes.is_main:
                shutil.rmtree(sharded.temporary, ignore_errors=True)
                self._say_missing(sharded.step, error)
        else:
            if processes.is_main:
                self._remove_old()

    def join(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def wait(self) -> None:
        """`join`, then raise the error of the last write, if it failed."""
        self.join()
        if self._failure is not None:
            raise self._failure

    def forget(self, after: int) -> None:
        """Remove those of later steps, which will run again, and unfinished writes."""
        for path in [path for path in self.found() if step_of(path) > after] + [*self.folder.glob(UNFINISHED)]:
            _remove(path)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        path = self.folder / f"step_{step:07d}.pt"
        try:
            with writing(path):
                self.folder.mkdir(exist_ok=True)
            with write_atomic(path) as file:
                save_archive(state, file)
                file.flush()
                if not _is_intact(file.name):
                    raise PhenakiError(f"'{path}' does not read back as it was written: check the disk")
        except Exception as error:  # in a thread: `wait` raises it
            self._failure = error
            self._say_missing(step, error)
        else:
            self._remove_old()

    def _say_missing(self, step: int, error: Exception) -> None:
        self._say(f"no checkpoint was written after step {step}; older ones are kept: {error}")

    def _remove_old(self) -> None:
        for path in self.found()[self._keep :]:
            if not (self._keep_every and step_of(path) % self._keep_every == 0):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(_NAME.fullmatch(path.name)[1])


def _described(step: int, state: dict[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "version": __version__, "step": step} | state


def read(path: Path) -> Content:
    """Read a checkpoint. Raises PhenakiError unless it is complete and intact."""
    if not path.is_dir():
        return Content(path, _check_archive(path))
    content = Content(path, _check_archive(path / STATE))
    sums = _unpickled(content).get("shards")
    if not isinstance(sums, dict) or not all(isinstance(name, str) and Path(name).name == name for name in sums):
        raise PhenakiError(f"the checkpoint '{path}' does not name its shards")
    for name, checksum in sums.items():
        try:
            same = checksum_of(path / name) == checksum
        except OSError as error:
            raise PhenakiError(
                f"the checkpoint '{path}' is incomplete: of the files of {len(sums)} processes {name} cannot be read "
                f"({error.strerror})"
            ) from error
        if not same:
            raise PhenakiError(f"the checkpoint '{path}' is corrupt in {name}")
    return content


def _check_archive(path: Path) -> int:
    """The size of a file of torch.save. Raises PhenakiError unless it is intact."""
    try:
        open_regular(path).close()
        size, intact = path.stat().st_size, _is_intact(path)
    except OSError as error:
        raise PhenakiError(f"the checkpoint '{path}' cannot be read: {error.strerror}") from error
    if not intact:
        raise PhenakiError(f"the checkpoint '{path}' ({size:,} bytes) is corrupt or truncated")
    return size


def load(content: Content, device: torch.device, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """The state of a checkpoint; sharded tensors are full, or, with a mesh, sharded again (all processes call).

    Other tensors are mapped from the file. Raises PhenakiError for one of a newer version, and for other files.
    """
    saved, shards = _unpickled(content), {}
    if "shards" not in saved:
        return saved

    def allocate(name: str, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            shards[name] = torch.empty_like(tensor, device=device) if mesh is None else empty_shard(tensor, mesh)
        return shards.get(name, tensor)

    saved = mapped(saved, allocate)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as intended without a mesh
        dcp.load(shards, storage_reader=dcp.HuggingFaceStorageReader(str(content.path)), no_dist=mesh is None)
    return saved


def items(content: Content, saved: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The items of the state of a checkpoint by name, emptying it: what was copied of one takes no memory when the next
    comes."""
    names, is_mapped = list(saved["state"]), "shards" not in saved and content.is_here()
    if is_mapped:
        saved["state"].clear()
    for name in names:
        yield name, _unpickled(content)["state"][name] if is_mapped else saved["state"].pop(name)


def receive(content: Content, processes: Processes) -> dict[str, Any]:
    """`load` where only the main process sees the file, which sends it tensor by tensor; all call."""
    saved = _unpickled(content) if processes.is_main else None
    outline = saved and mapped(saved, lambda _, tensor: torch.empty_like(tensor, device="meta"))
    outline = processes.from_main(outline)
    if "shards" in outline:
        raise PhenakiError(f"there is no folder '{content.path}' here: fsdp needs a disk that all machines see")
    if saved is None:
        saved = mapped(outline, lambda _, tensor: torch.empty_like(tensor, device="cpu"))
    mapped(saved, lambda _, tensor: processes.broadcast([tensor]))
    return saved


def _unpickled(content: Content) -> dict[str, Any]:
    """Mapped into memory: what is not copied from it takes none.

    Raises PhenakiError for one of a newer version, and for files with other contents than a run's.
    """
    other = f"'{content.path}' is no checkpoint of a run: name one, as RUN/checkpoints/step_0000250.pt"
    try:
        saved = torch.load(content.state, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch has many errors for files that it cannot read
        raise PhenakiError(other) from error
    if not isinstance(saved, dict) or not isinstance(saved.get("format"), int):
        raise PhenakiError(other)
    if saved["format"] > _FORMAT:
        raise NewerVersionError(
            f"the checkpoint was written by phenaki {saved.get('version')}, which is newer than this one "
            f"({__version__}): resume with that version"
        )
    return saved


def _check_step(saved: dict[str, Any], path: Path) -> None:
    """Raise PhenakiError unless a file of this run holds the step of its name."""
    if saved.get("step") != step_of(path):
        raise PhenakiError(f"the checkpoint '{path}' holds step {saved.get('step')}, not that of its name")


def _is_intact(file: str | Path) -> bool:
    """Whether it is a complete archive of torch.save whose files have the right checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
            return stored and archive.testzip() is None  # compressed ones, which torch never writes, can inflate
    except Exception:  # zipfile has many errors for a damaged directory
        return False
