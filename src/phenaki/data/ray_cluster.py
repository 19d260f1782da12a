"""Work on a Ray cluster: any worker takes any unit, and one that is lost is replaced.

Units are pure functions of their arguments, or files that are written atomically, so that a unit may run twice.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from phenaki.core.errors import PhenakiError

_TRIES = 20  # of a unit whose worker died: machines that are taken away cost one each, a unit that kills any worker all
_AHEAD = 4  # units per CPU that are submitted before their turn
_PORT = 6379
_CONNECT_TIMEOUT = 10.0  # seconds; Ray itself tries for minutes, and then ends the process

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class RayCluster:
    """A Ray cluster to which this process is connected (`engines.Engine`)."""

    unit_size = 16  # sending a unit takes some milliseconds

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def count(self, resource: str) -> int:
        return int(self._ray.cluster_resources().get(resource, 0))

    def put(self, value: Any) -> Any:
        return self._ray.put(value)

    def map(
        self, function: Callable[..., Result], units: Iterable[Unit], *arguments: Any, gpus: float = 0, name: str = ""
    ) -> Iterator[tuple[Unit, Result]]:
        task = self._ray.remote(max_retries=_TRIES, num_cpus=1, num_gpus=gpus)(function)
        units = iter(units)
        running: deque[tuple[Unit, Any]] = deque()
        try:
            while True:
                free = max(1, _AHEAD * self.count("CPU")) - len(running)  # clusters grow and shrink
                running.extend((unit, task.remote(unit, *arguments)) for unit in islice(units, max(0, free)))
                if not running:
                    return
                unit, result = running.popleft()
                yield unit, self._result(result, name)
        finally:
            for _, result in running:
                self._ray.cancel(result, force=True)

    def _result(self, result: Any, name: str) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(result)
        except errors.RayTaskError as error:
            if isinstance(error.cause, PhenakiError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise PhenakiError(
                f"{name}: {1 + _TRIES} workers in a row were lost ({type(error).__name__}), perhaps out of memory. Run "
                "the same command again to resume."
            ) from error


@contextmanager
def ray_cluster(address: str = "", processes: int = 0) -> Iterator[RayCluster]:
    """Connect to the cluster at HOST:PORT or ray://HOST:PORT; "" for RAY_ADDRESS, else one on this machine, which is
    started with `processes` CPUs (0: all) if there is none.

    Raises PhenakiError if Ray is not installed, and if no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise PhenakiError("--engine ray needs Ray: pip install 'phenaki[ray]'") from error
    address = address or os.environ.get("RAY_ADDRESS", "")
    if address and address not in ("auto", "local"):
        _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    own = not ray.is_initialized()  # else a program has connected, and will disconnect
    if own:
        try:
            _connect(ray, address, processes)
        except ConnectionError as error:
            raise PhenakiError(_no_cluster(address or "this machine")) from error
    for number, handler in handlers.items():  # Ray has set its own
        signal.signal(number, handler)
    try:
        yield RayCluster(ray)
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str, processes: int) -> None:
    options = {"log_to_driver": False, "logging_level": "error"}
    if address != "local":
        try:
            ray.init(address or "auto", **options)
            return
        except ConnectionError:
            if address:
                raise
    ray.init("local", num_cpus=processes or None, include_dashboard=False, **options)


def _check_answers(address: str) -> None:
    """Raise PhenakiError unless something answers at HOST:PORT."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        host, port = f"{host}:{port}".strip(":"), str(_PORT)
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise PhenakiError(_no_cluster(address)) from error


def _no_cluster(address: str) -> str:
    return (
        f"no Ray cluster answers at '{address}': start one (ray start --head) and name its HOST:{_PORT}, or leave out "
        "the address, for one on this machine"
    )
