"""From sources to training batches: processes, workers, and exact resuming.

A process takes batches from its workers in turn, each of which makes those of its own stream. Every batch carries the
position of its stream after it, so the process always knows what to save, however many batches are prefetched.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from phenaki.core.errors import PhenakiError
from phenaki.data.actions import DATASET, common_spec
from phenaki.data.batch import Batch, BatchResult, from_transfer, to_transfer
from phenaki.data.batch_stream import BatchStream, batch_sizes, check_sources
from phenaki.data.config import DataConfig
from phenaki.data.opening import open_source
from phenaki.data.sample import check_bad_fraction
from phenaki.data.sources import DatasetFingerprint, SourceLost

_WORKER_DIED = "DataLoader worker (pid"  # how torch's error begins


class Batches:
    """The endless batches of one of `world_size` processes, an iterator whose state can be saved and restored.

    A resumed run sees exactly the samples that an uninterrupted one would have seen; sources whose files or shards have
    changed are refused. `period`: frames per latent frame. `captions`: samples without one are bad, and those whose
    caption `check_caption` refuses with a PhenakiError; it is sent to the workers. `actions`: batches have those of
    their source, if it has any; the attribute says what they are. `on_bad` receives the name and problem of each bad
    sample.
    Raises PhenakiError for a source without a usable sample, and if the actions of two sources differ. So does `next`
    if a source runs out of samples, for more bad ones than `max_bad_fraction`, a lost server or a dead worker; the
    state then remains that before this batch.
    """

    def __init__(
        self,
        config: DataConfig,
        period: int,
        rank: int = 0,
        world_size: int = 1,
        captions: bool = True,
        check_caption: Callable[[str], None] | None = None,
        on_bad: Callable[[str], None] = lambda sentence: None,
        actions: bool = False,
    ):
        if config.batch % world_size:
            raise PhenakiError(f"data.batch {config.batch} is not a multiple of the {world_size} processes")
        self.config, self.on_bad, self.rank, self.world_size = config, on_bad, rank, world_size
        self.streams = max(config.workers, 1)
        sizes = batch_sizes(config, period, world_size)
        self._sources = [open_source(source, config, captions, actions=actions) for source in config.sources]
        self.actions = common_spec(
            {named.uri: source.actions for named, source in zip(config.sources, self._sources, strict=True)}
        )
        if self.actions and config.flip:
            raise PhenakiError("data.flip mirrors clips but not their actions, of which left stays left: set it false")
        self._fingerprints = [
            source.fingerprint()._replace(actions=str(source.actions or "")) for source in self._sources
        ]
        check_sources(config, self._sources, sizes, check_caption)
        self._streams = [
            BatchStream(config, self._sources, sizes, check_caption, index, rank, world_size)
            for index in range(self.streams)
        ]
        self._positions: list[dict[str, Any]] = [{} for _ in self._streams]
        self._yielded = self._read = self._bad = 0
        self._loader: Iterator[BatchResult | str] | None = None
        self._next: BatchResult | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        self.prefetch()
        result, self._next = self._next, None
        self._positions[self._yielded % self.streams] = result.position
        self._yielded += 1
        self._read += result.read
        self._bad += len(result.bad)
        return from_transfer(result.batch)

    def prefetch(self) -> None:
        """Get the next batch ready without taking it: raises what `next` would raise, and changes no state."""
        if self._next is not None:
            return
        if self._loader is None:
            self._loader = self._start()
        result = self._receive()
        if isinstance(result, str):
            raise PhenakiError(result)
        for sentence in result.bad:
            self.on_bad(sentence)
        read, bad = self._read + result.read, self._bad + len(result.bad)
        last = result.bad[-1] if result.bad else "named above"
        check_bad_fraction(bad, read, self.config.max_bad_fraction, "data.max_bad_fraction", last)
        self._next = result

    def _receive(self) -> BatchResult | str:
        try:
            return next(self._loader)
        except RuntimeError as error:
            if not str(error).startswith(_WORKER_DIED):
                raise
            self._loader = None
            raise PhenakiError(
                f"a data worker died, most likely out of memory ({error}): free some and run the same command to "
                f"resume from the checkpoint; a run in a new folder needs less with data.workers below "
                f"{self.config.workers} or data.shuffle below {self.config.shuffle}"
            ) from error

    def _start(self) -> Iterator[BatchResult | str]:
        """Start the workers, each at the position of its stream; the first makes the next batch."""
        first = self._yielded % self.streams
        order = [(first + index) % self.streams for index in range(self.streams)]
        loader = DataLoader(
            _WorkerStreams([self._streams[index] for index in order], [self._positions[index] for index in order]),
            batch_size=None,
            collate_fn=to_transfer,
            num_workers=self.config.workers,
            worker_init_fn=_ignore_signals,
        )
        others = set(multiprocessing.active_children())
        with _keeping_sigchld_handler():
            batches = iter(loader)
        atexit.register(_kill, set(multiprocessing.active_children()) - others)
        return batches

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Plain data of all processes, each of which must call this."""
        own = {"positions": list(self._positions), "yielded": self._yielded, "read": self._read, "bad": self._bad}
        own["fingerprints"] = [list(fingerprint) for fingerprint in self._fingerprints]
        if self.world_size == 1:
            return {"processes": [own]}
        processes: list[Any] = [None] * self.world_size
        dist.all_gather_object(processes, own)
        return {"processes": processes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state of another number of processes resumes as far into the data, in another order.

        Raises PhenakiError for the state of another number of workers, or of other data.
        """
        processes = state["processes"]
        streams = len(processes[0]["positions"])
        if streams != self.streams:
            raise PhenakiError(
                f"this run was saved by {len(processes)} processes with {streams} data streams each, not "
                f"{self.world_size} with {self.streams}: resume with data.workers as before"
            )
        own = processes[self.rank] if len(processes) == self.world_size else self._resharded(processes)
        for source, saved, now in zip(self.config.sources, own["fingerprints"], self._fingerprints, strict=True):
            _check_unchanged(source.uri, DatasetFingerprint(*saved), now)
        self._positions, self._yielded = own["positions"], own["yielded"]
        self._read, self._bad = own["read"], own["bad"]
        self._loader = self._next = None

    def _resharded(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        """The state of each process, from those of another number of them, which yielded as many batches."""
        positions = [position for process in processes for position in process["positions"]]
        by_stream = [position.get("sources", [{} for _ in self._sources]) for position in positions]
        count = self.world_size * self.streams
        sources = [
            source.resharded([by_source[index] for by_source in by_stream], count)
            for index, source in enumerate(self._sources)
        ]
        batches = [position.get("batches", 0) for position in processes[0]["positions"]]
        return processes[0] | {
            "positions": [{"batches": count, "sources": list(sources)} for count in batches],
            "read": sum(process["read"] for process in processes) // self.world_size,
            "bad": sum(process["bad"] for process in processes) // self.world_size,
        }


def _check_unchanged(uri: str, saved: DatasetFingerprint, now: DatasetFingerprint) -> None:
    """Raise PhenakiError if a source has changed since its state was saved."""
    if saved == now:
        return
    if saved[:3] == now[:3]:
        raise PhenakiError(
            f"the actions of '{uri}' have changed since this run was saved, from {saved.actions or 'none'} to "
            f"{now.actions or 'none'}: restore its {DATASET}, or train in a new folder"
        )
    before = f"{saved.count:,} {saved.unit}"
    change = f"it had {before} and now has {now.count:,} {now.unit}"
    if (saved.unit, saved.count) == (now.unit, now.count):
        change = f"its {before} have other names"
    raise PhenakiError(
        f"'{uri}' has changed since this run was saved ({change}), so it cannot resume with the same samples: restore "
        "the data, or train in a new folder"
    )


# ---- worker processes


class _WorkerStreams(IterableDataset):
    """In a worker: the batches of its stream."""

    def __init__(self, streams: list[BatchStream], positions: list[dict[str, Any]]):
        self.streams, self.positions = streams, positions

    def __iter__(self) -> Iterator[BatchResult | str]:
        worker = get_worker_info()
        index = worker.id if worker else 0
        try:
            yield from self.streams[index].batches(self.positions[index])
        except SourceLost as error:
            yield f"{error} Once it is back, run the same command to resume from the checkpoint."
        except PhenakiError as error:  # as data: DataLoader would turn an error into a traceback
            yield str(error)


@contextmanager
def _keeping_sigchld_handler() -> Iterator[None]:
    """torch's handler for dead workers would raise anywhere in the training. The next batch raises as well, at a point
    where the training can still be saved."""
    settable = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if settable else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


def _kill(workers: set[BaseProcess]) -> None:
    """Workers left when Python exits after an error: it would send a signal that they ignore, and wait forever."""
    for worker in workers:
        worker.kill()


def _ignore_signals(worker: int) -> None:
    """Ctrl-C goes to the whole process group; only the main process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
