"""The processes of a run: rendezvous, collectives, and noticing that a process is gone."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
_COLLECTIVES = timedelta(minutes=30)  # whoever is alive may be reading slow storage, or moving a large checkpoint
_BEATS = 6  # signs of life of a process within the time after which the others take it for lost
_GRACE = 3.0  # seconds for the main thread to notice by itself
_LOST = re.compile("timed? ?out|closed by peer|reset by peer|broken pipe|refused|failed to recv|not connected", re.I)
_PORT_TAKEN = re.compile("EADDRINUSE|address already in use", re.I)
_meetings, _runs = itertools.count(), itertools.count()  # of this process: store keys are never reused

Value = TypeVar("Value")


class Processes:
    """The processes of a run, this one among them, as torchrun and similar launchers start them.

    Collectives raise PhenakiError if another process has ended. A thread exchanges heartbeats: if one stays out for
    `timeout` seconds, as of a machine that is gone, and the main thread does not notice, for it waits on the GPU, the
    thread calls `on_lost` with a sentence and ends this process.
    """

    def __init__(self, device: torch.device, timeout: float, on_lost: Callable[[str], None] = lambda sentence: None):
        self.device, self.timeout, self._on_lost = device, timeout, on_lost
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._left = threading.Event()
        self._is_lost, self._heard = False, time.monotonic()  # any of the others; the last time they were looked for

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
        _set_pg_timeout(_COLLECTIVES)
        self._store, self._run = _get_default_store(), next(_runs)
        self._heard = time.monotonic()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._beat, self._watch)]
        for thread in self._threads:
            thread.start()

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
            for thread in self._threads:
                thread.join(timeout=1)  # they must not run while the interpreter shuts down

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
            while not self._store.check([met]):
                if self._is_lost:
                    raise self._lost()
                time.sleep(0.02)

    def _beat(self) -> None:
        """Give signs of life, and look for those of the main process and of the next one, until the run ends. Whoever
        misses one tells all."""
        prefix, others = f"phenaki/{self._run}", {0, (self.rank + 1) % self.count} - {self.rank}
        last = dict.fromkeys(others, (b"", time.monotonic()))
        while not self._left.wait(self.timeout / _BEATS):
            try:
                self._store.set(f"{prefix}/beat/{self.rank}", str(time.time()))
                for rank in others:
                    key = f"{prefix}/beat/{rank}"
                    beat = self._store.get(key) if self._store.check([key]) else b""
                    if beat != last[rank][0]:
                        last[rank] = (beat, time.monotonic())
                    elif time.monotonic() - last[rank][1] > self.timeout:
                        self._store.set(f"{prefix}/lost", "")
                self._is_lost = self._store.check([f"{prefix}/lost"])
            except RuntimeError:  # the store is gone, and with it the process that kept it
                self._is_lost = True
            self._heard = time.monotonic()

    def _watch(self) -> None:
        """End this process if another is lost, or the store does not answer, and the main thread does not notice."""
        while not self._left.wait(self.timeout / _BEATS):
            self._is_lost |= time.monotonic() - self._heard > self.timeout
            if self._is_lost and not self._left.wait(_GRACE):
                sentence = str(self._lost())
                self._on_lost(sentence)
                print(f"phenaki: {sentence}", file=sys.stderr, flush=True)
                os._exit(1)  # a collective cannot be interrupted

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
                    dist.broadcast(tensor.detach(), 0)

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by their sum."""
        if self.count > 1:
            with self.answered():
                for tensor in tensors:
                    dist.all_reduce(tensor)
