"""Locks of outputs: two processes that write into one exclude each other, and a process that died excludes nobody."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".phenaki.lock"  # in a folder that is written into

_held: set[str] = set()  # by this process: the system's locks are of processes, so that forks do not keep them


@contextmanager
def lock(path: Path, output: str | Path, task: str) -> Iterator[None]:
    """Hold the file `path`, in an existing folder, as a lock while the block runs; it is removed at the end.

    output, task: what is written, and how, such as "training", for the error. Raises PhenakiError that names the
    process that holds it. On systems and disks without locks nothing is held.
    """
    name = os.path.realpath(path)
    if fcntl is None:
        yield
        return
    file = _locked(path, output) if name not in _held else None
    if file is None:
        raise PhenakiError(_describe(path, output))
    try:
        _held.add(name)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "task": task, "since": time.strftime("%H:%M")}
        with suppress(OSError):  # the lock holds on a full disk too
            file.truncate(0)
            file.write(json.dumps(owner).encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        _held.discard(name)
        file.close()


@contextmanager
def lock_folder(folder: Path, task: str, name: str = LOCK) -> Iterator[None]:
    """`lock` of a folder, which is created, and a new one removed again if it is empty. name: of the lock in it."""
    is_new = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder / name, folder, task):
            yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path, output: str | Path) -> IO[bytes] | None:
    """The open file, locked; None if another process holds it."""
    while True:
        with writing(output):
            file = open(path, "a+b", buffering=0)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except OSError:  # the disk has no locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # whoever held it has removed it meanwhile


def _describe(path: Path, output: str | Path) -> str:
    """The sentence about the process that holds a lock."""
    try:
        owner = parse_json_object(path.read_bytes(), "the lock")
        who = f"{owner['task']} in process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, PhenakiError, KeyError):  # it is about to write it
        who = "another process"
    return f"'{output}' is in use: {who}. Wait for it, stop it, or name another output"
