"""Opening files that others made: regular files alone, and no more of them than expected."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, or a link to one, opened for reading. Raises OSError for anything else.

    A pipe would wait for a writer, a device may never end: their reader would hang.
    """
    _check_regular(path, os.stat(path).st_mode)
    # a pipe that comes to lie there in between is opened without waiting, and refused
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


MAX_JSON = 64 * 2**20  # bytes of a description that is read in one piece


def read_regular(path: str | Path, max_bytes: int = MAX_JSON) -> bytes:
    """The content of a regular file of at most `max_bytes`. Raises OSError for anything else."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        size = os.path.getsize(path)
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {max_bytes:,} are read", str(path))
    return data


def _check_regular(path: str | Path, mode: int) -> None:
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise OSError(errno.EINVAL, f"it is {name}, not a regular file", str(path))
