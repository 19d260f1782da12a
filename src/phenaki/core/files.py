"""Atomic writing of files and folders: complete under their final name, or not there at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from phenaki.core.errors import PhenakiError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".phenaki-*.tmp"
"""Names of files and folders that are being written, or were when their process was killed."""

_swept: set[str] = set()  # folders without unfinished files of processes that were killed
_DEEPEST = 100  # levels of JSON; what walks through it recurses
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is exceeded; free some space or write elsewhere",
    errno.EFBIG: "it exceeds the largest file size of that file system",
    errno.EROFS: "that file system is read-only; write elsewhere",
    errno.EACCES: "permission denied; write to a folder that you own",
    errno.EPERM: "permission denied; write to a folder that you own",
    errno.EIO: "the disk reported an input/output error",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "part of that path is a file, not a folder",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn system errors about writing to `path` into a PhenakiError; other errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise PhenakiError(f"Cannot write '{path}': {_REASONS[error.errno]}.") from error


def is_path(value: Any) -> bool:
    """Whether a system can have a file of that name."""
    try:
        path = os.fsencode(value)
        return isinstance(value, (str, Path)) and b"\0" not in path
    except (TypeError, UnicodeEncodeError):  # such as a lone surrogate that stands for no byte
        return False


def to_json(data: Any, indent: int | None = None) -> bytes:
    """Plain data as JSON in UTF-8, with a line break."""
    return json.dumps(data, ensure_ascii=False, indent=indent).encode() + b"\n"


def parse_json(data: str | bytes, where: str) -> Any:
    """Plain data from JSON. Raises PhenakiError, which begins with `where`, for text that is no JSON."""
    try:
        parsed = json.loads(data)
    except RecursionError as error:
        raise PhenakiError(f"{where} cannot be read as JSON: it is nested too deep.") from error
    except ValueError as error:
        raise PhenakiError(f"{where} cannot be read as JSON: {error}.") from error
    level, depth = [parsed], 0
    while level := [item for container in level for item in _items(container)]:
        depth += 1
        if depth > _DEEPEST:
            raise PhenakiError(f"{where} is nested too deep: lists and objects in more than {_DEEPEST} others.")
    return parsed


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def parse_json_object(data: str | bytes, where: str) -> dict[str, Any]:
    """As `parse_json`, for JSON that must be an object."""
    parsed = parse_json(data, where)
    if not isinstance(parsed, dict):
        raise PhenakiError(f"{where} must hold a JSON object, not a {type(parsed).__name__}.")
    return parsed


def with_ending(path: str, ending: str) -> str:
    """`path` as the name of a file, with `ending` if it has none; folders, and what ends in "/", stay as they are.

    Raises PhenakiError for an empty path.
    """
    if not path:
        raise PhenakiError("The name of the file to write is empty.")
    bare = not (path.endswith(("/", os.sep)) or Path(path).suffix or os.path.isdir(path))
    return f"{path}{ending}" if bare else path


def check_folder(path: str | Path) -> None:
    """Raise PhenakiError unless the folder that `path` lies in exists."""
    path = Path(path)
    if not path.parent.is_dir():
        reason = "is a file" if path.parent.is_file() else "does not exist. Create it first"
        raise PhenakiError(f"Cannot write '{path}': the folder '{path.parent}' {reason}.")


@contextmanager
def _temporary_beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file or folder, which `make` creates, in the folder of `path`; removed at the end if it is there.

    It is locked, so that those of processes that were killed can be told from it: the first write of a process into a
    folder removes these.
    """
    check_folder(path)
    _remove_abandoned(path.parent)
    temporary, lock = _created(path.parent, make)
    try:
        yield temporary
    finally:
        _remove(temporary)
        if lock is not None:
            os.close(lock)


def _created(folder: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    while True:
        temporary = folder / f".phenaki-{secrets.token_hex(6)}.tmp"  # of constant length, so that long names work
        make(temporary)
        if (lock := _flock(temporary, wait=True)) is None or temporary.exists():
            return temporary, lock
        os.close(lock)  # another process took it for an abandoned one before it was locked


def _flock(path: Path, wait: bool = False) -> int | None:
    """A descriptor that holds a lock on a file or folder; None if another one does, or the system has no such locks."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed had not finished; once for each folder that a process writes into."""
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    for temporary in folder.glob(UNFINISHED):
        if (lock := _flock(temporary)) is not None:
            _remove(temporary)
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def write_atomic(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file for writing that is renamed to `path` only if the block ends without an error.

    The block writes to a temporary file in the same folder (the handle's `.name`), which is then synced to disk and
    renamed, or removed on an error. Text is UTF-8. Raises PhenakiError for a missing or read-only folder, a full disk,
    and a path that is not a regular file.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_file():  # a rename would replace /dev/null
            raise PhenakiError(f"Cannot write '{path}': it is {'a folder' if path.is_dir() else 'not a regular file'}.")
        with _temporary_beside(path, Path.touch) as temporary:
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)


@contextmanager
def write_folder_atomic(path: str | Path) -> Iterator[Path]:
    """A temporary folder whose files are moved to `path` only if the block ends without an error.

    A new folder appears in one rename. In an existing folder, files of the same names are replaced and others kept. All
    old files are removed before the first new one is moved in: a crash in between leaves files missing, which is
    noticed, rather than old weights beside a new configuration, which is not. Raises PhenakiError as `write_atomic`.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_dir():
            raise PhenakiError(f"Cannot write the folder '{path}': it is a file.")
        with _temporary_beside(path, Path.mkdir) as temporary:
            yield temporary
            files = [file for file in sorted(temporary.rglob("*")) if file.is_file()]
            for file in files:
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
            if not path.exists():
                os.rename(temporary, path)
                return
            _replace(path, temporary, [file.relative_to(temporary) for file in files])


def _replace(folder: Path, new: Path, names: list[Path]) -> None:
    """Move the named files from `new` to `folder`: all of them or, on an error, none."""
    with _temporary_beside(folder, Path.mkdir) as old, ExitStack() as undo:
        for name in names:
            current, backup = folder / name, old / name
            current.parent.mkdir(parents=True, exist_ok=True)
            if current.exists():
                backup.parent.mkdir(parents=True, exist_ok=True)
                os.replace(current, backup)
                undo.callback(os.replace, backup, current)
            else:
                undo.callback(current.unlink, missing_ok=True)
        for name in names:
            os.replace(new / name, folder / name)
        undo.pop_all()
