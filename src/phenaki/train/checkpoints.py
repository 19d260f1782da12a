"""The checkpoints of a run: each written aside while the training goes on, checked, and only then named."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from phenaki import __version__
from phenaki.errors import PhenakiError
from phenaki.files import write_whole, writing

FOLDER = "checkpoints"
_FORMAT = 2  # 1 was a file checkpoint.pt in the run's folder
_NAME = re.compile(r"step_(\d+)\.pt")
_UNFINISHED = ".phenaki-*.tmp"  # as a kill in the middle of writing leaves it


class Checkpoints:
    """Those in a run's folder, as checkpoints/step_0000250.pt: the newest `keep`, and for good those of steps that are
    multiples of `keep_every`, if that is not 0. `say` is told when one could not be written; the older ones stay.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int, say: Callable[[str], None]):
        self.folder = folder / FOLDER
        self._keep, self._keep_every, self._say = keep, keep_every, say
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None

    def found(self) -> list[Path]:
        """The newest first."""
        files = [path for path in self.folder.glob("step_*.pt") if _NAME.fullmatch(path.name)]
        return sorted(files, key=step_of, reverse=True)

    def newest(self) -> bytes | None:
        """The newest that is whole, None where there is none. Broken ones are named and passed over.

        Raises PhenakiError where all are broken.
        """
        files = self.found()
        for path in files:
            try:
                return read_whole(path)
            except PhenakiError as error:
                broken = str(error)
                self._say(f"passed over: {broken}")
        if files:
            raise PhenakiError(
                f"no checkpoint in '{self.folder}' is whole ({broken}): start anew with --resume never --overwrite"
            )
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state and write it, with format and version, while the caller goes on; one at a time."""
        self.join()
        state = _copied({"format": _FORMAT, "version": __version__, "step": step} | state)
        self._failure = None
        self._writer = threading.Thread(target=self._write, args=(step, state), name="checkpoint")
        self._writer.start()

    def join(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def wait(self) -> None:
        """Wait as `join` does. Raises what kept the last one from being written."""
        self.join()
        if self._failure is not None:
            raise self._failure

    def forget(self, after: int) -> None:
        """Remove those of later steps, which are to run again, and what a kill left unfinished."""
        for path in [path for path in self.found() if step_of(path) > after] + [*self.folder.glob(_UNFINISHED)]:
            path.unlink(missing_ok=True)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        path = self.folder / f"step_{step:07d}.pt"
        try:
            with writing(path):
                self.folder.mkdir(exist_ok=True)
            with write_whole(path) as file:
                _save(state, file)
                file.flush()
                if not _is_whole(file.name):
                    raise PhenakiError(f"'{path}' is not on the disk as it was written: check the disk")
        except Exception as error:  # in a thread: it is for `wait` to raise
            self._failure = error
            self._say(f"no checkpoint was written after step {step}, the older ones stay: {error}")
        else:
            self._remove_old()

    def _remove_old(self) -> None:
        for path in self.found()[self._keep :]:
            if not (self._keep_every and step_of(path) % self._keep_every == 0):
                path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(_NAME.fullmatch(path.name)[1])


def read_whole(path: Path) -> bytes:
    """A checkpoint's bytes. Raises PhenakiError unless they are all there, and as they were written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PhenakiError(f"the checkpoint '{path}' cannot be read: {error.strerror}") from error
    if not _is_whole(io.BytesIO(content)):
        raise PhenakiError(f"the checkpoint '{path}' ({len(content):,} bytes) is broken or cut off")
    return content


def load(content: bytes, device: torch.device) -> dict[str, Any]:
    """What `read_whole` gave, as it was saved. Raises PhenakiError for one of a newer version, or of something else."""
    try:
        saved = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch says in many ways that it does not know what it reads
        raise PhenakiError("this is no checkpoint of a run: name one, as RUN/checkpoints/step_0000250.pt") from error
    if not isinstance(saved, dict) or "format" not in saved:
        raise PhenakiError("this is no checkpoint of a run of this version: name one, as checkpoints/step_0000250.pt")
    if saved["format"] > _FORMAT:
        raise PhenakiError(
            f"the checkpoint was written by phenaki {saved['version']}, which is newer than this one ({__version__}): "
            "go on with that version"
        )
    return saved


def check_version(folder: Path) -> None:
    """Raise PhenakiError for a run of a version whose checkpoints cannot be read any more."""
    if (folder / "checkpoint.pt").exists() and not (folder / FOLDER).exists():
        raise PhenakiError(
            f"the run in '{folder}' is of an older version, whose checkpoint.pt this one cannot go on from: name "
            "another folder, or start anew in it with --resume never --overwrite"
        )


def _is_whole(file: str | IO[bytes]) -> bool:
    """Whether it is a whole archive of torch.save, and each part has the checksum it was written with."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


class _Sink:
    """A file for torch.save, which turns the system's errors about writing, such as a full disk, into its own."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        with self._noticed():
            return self._file.write(data)

    def flush(self) -> None:
        with self._noticed():
            self._file.flush()

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    sink = _Sink(file)
    try:
        torch.save(state, sink)
    except RuntimeError:
        if sink.error is not None:
            raise sink.error from None
        raise


def _copied(value: Any) -> Any:
    """With tensors of its own, on the CPU: what is trained meanwhile changes nothing in it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value
