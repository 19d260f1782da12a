"""Where work is done that needs many processes: on this machine, or on a Ray cluster (`data/ray_cluster.py`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar, get_args

from phenaki.core.errors import PhenakiError, did_you_mean

EngineName = Literal["local", "ray"]
Unit = TypeVar("Unit")
Result = TypeVar("Result")

_AHEAD = 4  # units per process that are submitted before their turn


class Engine(Protocol):
    """unit_size: how many small things are worth sending at once."""

    unit_size: int

    def count(self, resource: str) -> int:
        """How many "CPU" or "GPU" there are now."""

    def put(self, value: Any) -> Any:
        """What stands for a value as an argument of functions, so that it is sent to each machine once."""

    def map(
        self, function: Callable[..., Result], units: Iterable[Unit], *arguments: Any, gpus: float = 0, name: str = ""
    ) -> Iterator[tuple[Unit, Result]]:
        """`function(unit, *arguments)` of each unit, in their order; a few are submitted ahead.

        gpus: of each unit. name: what is done, for errors. Raises PhenakiError that a function raised, and for
        processes that are lost.
        """


def check_engine(engine: str, address: str = "") -> None:
    """Raise PhenakiError for an engine that there is not, and an address of another one than Ray."""
    if engine not in get_args(EngineName):
        nearest = did_you_mean(engine, get_args(EngineName))
        raise PhenakiError(f"there is no engine '{engine}': there are {', '.join(get_args(EngineName))}.{nearest}")
    if address and engine != "ray":
        raise PhenakiError(f"--address {address} is of a Ray cluster: add --engine ray")


def open_engine(engine: str, address: str = "", processes: int = 0) -> AbstractContextManager[Engine]:
    """The engine of that name; 0 processes: one per core."""
    if engine == "local":
        return nullcontext(LocalProcesses(processes))
    from phenaki.data.ray_cluster import ray_cluster

    return ray_cluster(address, processes)


class LocalProcesses:
    """Worker processes of this machine, of which each call of `map` starts its own; a single one is this process."""

    unit_size = 1

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes or os.cpu_count() or 1

    def count(self, resource: str) -> int:
        return self.processes if resource == "CPU" else 0

    def put(self, value: Any) -> Any:
        return value

    def map(
        self, function: Callable[..., Result], units: Iterable[Unit], *arguments: Any, gpus: float = 0, name: str = ""
    ) -> Iterator[tuple[Unit, Result]]:
        units = iter(units)
        if self.processes == 1:
            yield from ((unit, function(unit, *arguments)) for unit in units)
            return
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks held by other threads
        pool = ProcessPoolExecutor(self.processes, spawn, initializer=_start_worker)

        def submit(unit: Unit) -> tuple[Unit, Future[Result]]:
            with _interrupts_held():  # this may start a process
                return unit, pool.submit(function, unit, *arguments)

        try:
            futures = deque(map(submit, islice(units, _AHEAD * self.processes)))
            while futures:
                unit, future = futures.popleft()
                yield unit, future.result()
                futures.extend(map(submit, islice(units, 1)))
        except BrokenProcessPool as error:
            raise PhenakiError(
                f"a worker process died while {name}, perhaps out of memory. Run the same command again to resume."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until after the block, and Ctrl-C in processes started in it until `_start_worker`.

    A mask alone is not enough: another thread would take the signal, and Python would raise in the main one.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number in handlers:
        signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if caught:
        handlers[caught[0]](caught[0], None)


def _start_worker() -> None:
    """Ctrl-C ends a worker silently, and a worker exits when its main process is killed."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a script's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    main = multiprocessing.parent_process()
    threading.Thread(target=lambda: (main.join(), os._exit(1)), daemon=True).start()
