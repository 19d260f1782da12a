"""Files and folders that appear under their name whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from phenaki.core.errors import PhenakiError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "it is larger than a file may be there",
    errno.EROFS: "that file system is read-only; choose another place",
    errno.EACCES: "permission is denied; choose a place you may write to",
    errno.EPERM: "permission is denied; choose a place you may write to",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of that path is a file and no folder",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the system's errors about writing to `path` into a PhenakiError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise PhenakiError(f"Cannot write '{path}': {_REASONS[error.errno]}.") from error


def _temporary_beside(path: Path) -> Path:
    if not path.parent.is_dir():
        raise PhenakiError(f"Cannot write '{path}': the folder '{path.parent}' does not exist. Create it first.")
    return path.parent / f".phenaki-{secrets.token_hex(6)}.tmp"  # of one length, so that a long name stays possible


@contextmanager
def write_atomic(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file for writing that takes the name `path` only when the block ends without an error.

    The block writes into a temporary file beside it (its path is the handle's `.name`), which is flushed to the disk
    and renamed, or removed if anything is raised. Text is UTF-8. Raises PhenakiError for a missing or unwritable
    folder, a full disk, and a path that names something else than a file.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
            raise PhenakiError(f"Cannot write '{path}': that is {'a folder' if path.is_dir() else 'no ordinary file'}.")
        temporary = _temporary_beside(path)
        try:
            with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomic(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill, whose files get their places under `path` only when the block ends without an error.

    A new folder appears in one rename. In a folder that is there already files are replaced after all the new ones are
    on the disk; other files in it stay. The old ones leave before the first new one comes: a crash in between leaves
    files missing, which is seen, and never old weights beside a new configuration, which is not. Raises PhenakiError as
    `write_atomic` does.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_dir():
            raise PhenakiError(f"Cannot write the folder '{path}': there is a file of that name.")
        temporary = _temporary_beside(path)
        try:
            temporary.mkdir()
            yield temporary
            files = [file for file in sorted(temporary.rglob("*")) if file.is_file()]
            for file in files:
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
            if not path.exists():
                os.rename(temporary, path)
                return
            _replace(path, temporary, [file.relative_to(temporary) for file in files])
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, new: Path, names: list[Path]) -> None:
    """Move the files of these names from `new` to `folder`, all of them or, if anything is raised, none."""
    old = _temporary_beside(folder)
    try:
        with ExitStack() as undo:
            for name in names:
                place, aside = folder / name, old / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.exists():
                    aside.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(place, aside)
                    undo.callback(os.replace, aside, place)
                else:
                    undo.callback(place.unlink, missing_ok=True)
            for name in names:
                os.replace(new / name, folder / name)
            undo.pop_all()
    finally:
        shutil.rmtree(old, ignore_errors=True)
