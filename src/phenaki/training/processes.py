"""The processes of a run: rendezvous, collectives, and noticing that a process is gone."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Import before there is a group: the defaults of these functions would keep the group, and gloo's threads, alive until
# Python exits, when such a thread, releasing a tensor, asks the dying interpreter for its lock and the process aborts.
import torch.distributed.nn.functional  # noqa: F401
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store, _set_pg_timeout

from phenaki.core.errors import PhenakiError

_JOINING = timedelta(minutes=10)  # for the rendezvous: machines start at their own pace
_BEATS = 6  # signs of life of the main process within the time that the others have timeout
_LOST = re.compile("timed? ?out|closed by peer|reset by peer|broken pipe|refused|failed to recv|not connected", re.I)
_PORT_TAKEN = re.compile("EADDRINUSE|address already in use", re.I)
_meetings = itertools.count()  # of all runs in this process: store keys are never reused

Value = TypeVar("Value")


class Processes:
    """The processes of a run, this one among them, as torchrun and similar launchers start them.

    Collectives raise PhenakiError if another process has ended, or does not answer for `timeout` seconds.
    """

    def __init__(self, device: torch.device, timeout: float):
        self.device, self.timeout = device, timeout
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._left = threading.Event()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    # ---- rendezvous

    def join(self) -> None:
        """Wait until all are there. An existing process group is reused."""
        if self.count == 1:
            return
        if not dist.is_initialized():
            with self._rendezvous():
                backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
                dist.init_process_group(backend, timeout=_JOINING)
            atexit.register(dist.destroy_process_group)  # at exit: another run in this process reuses the group
        _set_pg_timeout(timedelta(seconds=self.timeout))
        self._store = _get_default_store()
        if self.is_main:
            self._heart = threading.Thread(target=self._beat, daemon=True)
            self._heart.start()

    def leave(self, error: BaseException | None) -> None:
        """Wait for all to finish, unless this one ends by an error, which the others then notice."""
        if self.count == 1:
            return
        try:
            if error is None:
                self.wait_for_main()
                with self.answered():
                    dist.barrier()
            elif isinstance(error, RuntimeError) and _LOST.search(str(error)):  # from layers that gather their shards
                raise self._lost() from error
        finally:
            self._left.set()
            if self.is_main:
                self._heart.join(timeout=1)  # it must not run while the interpreter shuts down

    @contextmanager
    def _rendezvous(self) -> Iterator[None]:
        """Turn errors of the rendezvous into a PhenakiError."""
        address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if _PORT_TAKEN.search(str(error)):
                raise PhenakiError(
                    f"the port at {address} is in use, most likely by another run: choose a free one (torchrun "
                    "--master-port, or MASTER_PORT)"
                ) from error
            if isinstance(error, ValueError) or _LOST.search(str(error)):
                raise PhenakiError(
                    f"process {self.rank} of {self.count} did not find the others at {address} within "
                    f"{_JOINING.seconds // 60} minutes: start as many as WORLD_SIZE says, each with its own RANK, and "
                    "MASTER_ADDR and MASTER_PORT those of the first"
                ) from error
            raise

    # ---- liveness

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Turn errors of torch about a process that is gone into a PhenakiError."""
        try:
            yield
        except RuntimeError as error:
            if not _LOST.search(str(error)):
                raise
            raise self._lost() from error

    def _lost(self) -> PhenakiError:
        return PhenakiError(
            f"process {self.rank} of {self.count} waited in vain for another one, which ended or did not answer for "
            f"{self.timeout:g} s (run.timeout): look at its output. The same command resumes from the newest checkpoint"
        )

    def wait_for_main(self) -> None:
        """Wait, as long as its heartbeat continues, while the main process does something alone; all call."""
        if self.count == 1:
            return
        met = f"phenaki/met/{next(_meetings)}"
        with self.answered():
            if self.is_main:
                self._store.set(met, "")
                return
            last, since = b"", time.monotonic()
            while not self._store.check([met]):
                beat = self._store.get("phenaki/beat") if self._store.check(["phenaki/beat"]) else b""
                if beat != last:
                    last, since = beat, time.monotonic()
                elif time.monotonic() - since > self.timeout:
                    raise self._lost()
                time.sleep(0.02)

    def _beat(self) -> None:
        while not self._left.is_set():
            try:
                self._store.set("phenaki/beat", str(time.time()))
            except RuntimeError:  # the store is gone: whoever waits for it reports that
                return
            self._left.wait(self.timeout / _BEATS)

    # ---- collectives

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        if self.count == 1:
            return flag
        shared = torch.tensor(int(flag))
        with self.answered():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared)

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self.answered():
            dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Value) -> Value:
        """The main process's value, in all processes; the others wait as long as it takes."""
        if self.count == 1:
            return value
        self.wait_for_main()
        values = [value]
        with self.answered():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by those of the main one."""
        if self.count > 1:
            with self.answered():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by their sum."""
        if self.count > 1:
            with self.answered():
                for tensor in tensors:
                    dist.all_reduce(tensor)
