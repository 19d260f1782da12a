"""Runs an input under the rule, and says how it ended."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from phenaki.core.errors import PhenakiError
from phenaki.core.files import UNFINISHED

SECONDS = 20  # of the processor, for one input; six times as long by the clock, as other processes may be busy
MEMORY = 2 * 2**30  # bytes over what the process had at its start
_RUNS_CODE = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
)
_CHANGES = {"os.remove": 0, "os.rename": 1, "os.mkdir": 0, "os.rmdir": 0, "shutil.rmtree": 0, "os.truncate": 0}


class Verdict(NamedTuple):
    """How an input ended: with a result, with a sentence, or in a way that breaks the rule, with its traceback."""

    kind: Literal["result", "sentence", "fault"]
    text: str = ""


class Broken(BaseException):
    """The rule is broken. No `except Exception` of the code under test hides it."""


class _Watch:
    """Audits what this process does to files outside of the folder, and what it runs."""

    folder: Path | None = None
    broken = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or self.broken:
            return
        if event in _RUNS_CODE and not _is_asked_for(event, arguments):
            self.broken = f"{event}{arguments[:2]!r}"[:300]
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and isinstance(path, (str, bytes)):
                self._check(event, path)
        elif event in _CHANGES and not (event == "os.mkdir" and os.path.isdir(arguments[0])):
            self._check(event, arguments[_CHANGES[event]])

    def _check(self, event: str, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if place and not place.startswith((str(self.folder), "/dev/null", "/dev/tty", "/tmp/torchinductor")):
            self.broken = f"{event} of {place}, outside of {self.folder}"


def _is_asked_for(event: str, arguments: tuple[Any, ...]) -> bool:
    """git, which tells the commit of this code, and the address among the command lines, where nobody listens."""
    if event == "subprocess.Popen":
        return arguments[0] == "git"
    return event == "socket.connect" and arguments[1] == ("127.0.0.1", 1)


_watch = _Watch()
_base = 0


def _start() -> None:
    """Once for a process: the hook cannot be removed."""
    global _base
    if not _base:
        _base = _most_memory()
        sys.addaudithook(_watch)


def memory_taken() -> int:
    """Bytes, at most, that the inputs so far have taken over what the process had at its start."""
    return _most_memory() - _base


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def judge(run: Callable[[], object], folder: Path, seconds: float = SECONDS) -> Verdict:
    """Run an input that may write into the folder alone."""
    _start()
    inside = folder / "a" / "b" / "c"  # so that ../../ stays in it
    inside.mkdir(parents=True, exist_ok=True)
    try:
        with chdir(inside), _bounded(seconds), _watched(folder), warnings.catch_warnings(action="ignore"):
            run()
    except PhenakiError as error:
        return _judge_sentence(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return Verdict("fault", traceback.format_exc())
    return Verdict("result")


def _judge_sentence(sentence: str) -> Verdict:
    try:
        sentence.encode()
    except UnicodeEncodeError:
        return Verdict("fault", f"a sentence that cannot be written to a file: {ascii(sentence)[:500]}")
    if not sentence.strip() or len(sentence) > 30_000:
        return Verdict("fault", f"a sentence of {len(sentence)} characters: {sentence[:500]}")
    return Verdict("sentence", sentence)


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    before = _most_memory()

    def stop(*_: object) -> None:
        raise Broken(f"it took more than {seconds} s")

    alarms = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
    earlier = {name: signal.signal(name, stop) for name in alarms.values()}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    faulthandler.dump_traceback_later(20 * seconds, exit=True)  # inside of C, an alarm is not heard
    try:
        yield
    finally:
        for timer in alarms:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for name, handler in earlier.items():
            signal.signal(name, handler)
        if (most := _most_memory()) > max(before, _base + MEMORY):
            raise Broken(f"it took {(most - _base) / 2**30:.1f} GiB more than the process had at its start")


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    _watch.folder, _watch.broken = folder.resolve(), ""
    try:
        yield
    finally:
        _watch.folder = None
        if _watch.broken:
            raise Broken(_watch.broken)
        if left := [*folder.rglob(UNFINISHED)]:
            raise Broken(f"it left {left[0].name}")
