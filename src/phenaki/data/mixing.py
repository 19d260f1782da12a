"""From sources to the batches of a training: weights, lengths, sizes, processes and workers, and exact resuming.

The batches of a process come from its workers in turn, each worker making those of its own stream. A batch travels with
the position of its stream after it, so the process knows at any time what to save, whatever is already made ahead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.data.config import DataConfig
from phenaki.data.opening import open_source
from phenaki.data.sample import check_bad_fraction
from phenaki.data.sources import DatasetFingerprint, Gone, Sample, Source, StreamConfig
from phenaki.data.tokens import Tokens
from phenaki.media.view import ClipView

_HOPELESS = 64  # bad samples to a good one, after which a source counts as unusable
_ALL_PICTURES = 10_000  # still pictures to a video, after which a source counts as one of pictures alone
_SMALL = 2**18  # bytes of a tensor; up to there a copy costs less than the connection
_WINDOW_BYTES = 64 * 2**20  # of encoded samples that a worker holds for shuffling, over all sources
_WORKER_DIED = "DataLoader worker (pid"  # as torch's error begins


class Batch(TypedDict, total=False):
    """A caption for each clip, bool (B,) which clips go on from an earlier scene, and one of video uint8
    (B, T, H, W, 3) and ids int64 (B, t, h, w); from token shards that have them, text float32 (B, L, D) with its mask
    bool (B, L)."""

    captions: list[str]
    continued: Tensor
    video: Tensor
    ids: Tensor
    text: Tensor
    text_mask: Tensor


class Made(NamedTuple):
    """A batch, where its stream stands after it, and of the samples it took how many there were and which were bad."""

    batch: Batch
    position: dict[str, Any]
    taken: int
    bad: list[str]


class Batches:
    """The endless batches of one of `world_size` processes, as an iterator whose state can be saved and restored.

    A resumed run sees exactly the samples that an uninterrupted one would have seen; sources whose files or shards are
    others than those of the saved state are refused. `period`: frames of a time step.
    `captions`: samples without one are bad, and those whose caption `check_caption` refuses with a PhenakiError; it
    goes to the workers. `on_bad` is told each bad sample: its name and what is wrong with it.
    Raises PhenakiError for a source without a usable sample. So does `next` for one that has no more of them, for more
    bad ones than `max_bad_fraction`, for a server that is gone and for a worker that died; the state stays
    that before this batch.
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
    ):
        if config.batch % world_size:
            raise PhenakiError(f"data.batch {config.batch} is not a multiple of the {world_size} processes")
        self.config, self.on_bad, self.rank, self.world_size = config, on_bad, rank, world_size
        self.streams = max(config.workers, 1)
        counts = _counts(config, period, world_size)
        self._sources = [open_source(source, config, captions) for source in config.sources]
        self._fingerprints = [source.fingerprint() for source in self._sources]
        _check_usable(config, self._sources, counts, check_caption)
        self._makers = [
            _Maker(config, self._sources, counts, check_caption, number, rank, world_size)
            for number in range(self.streams)
        ]
        self._positions: list[dict[str, Any]] = [{} for _ in self._makers]
        self._made = self._taken = self._bad = 0
        self._loader: Iterator[Made | str] | None = None
        self._next: Made | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        self.prepare()
        made, self._next = self._next, None
        self._positions[self._made % self.streams] = made.position
        self._made += 1
        self._taken += made.taken
        self._bad += len(made.bad)
        return _received(made.batch)

    def prepare(self) -> None:
        """Get the next batch ready without taking it: raises what `next` would raise, and changes no state."""
        if self._next is not None:
            return
        if self._loader is None:
            self._loader = self._start()
        made = self._take()
        if isinstance(made, str):
            raise PhenakiError(made)
        for sentence in made.bad:
            self.on_bad(sentence)
        taken, bad = self._taken + made.taken, self._bad + len(made.bad)
        last = made.bad[-1] if made.bad else "named above"
        check_bad_fraction(bad, taken, self.config.max_bad_fraction, "data.max_bad_fraction", last)
        self._next = made

    def _take(self) -> Made | str:
        try:
            return next(self._loader)
        except RuntimeError as error:
            if not str(error).startswith(_WORKER_DIED):
                raise
            self._loader = None
            raise PhenakiError(
                f"a data worker died, most likely because memory ran out ({error}): free some, and the same command "
                f"goes on from the checkpoint; a run in another folder needs less with data.workers below "
                f"{self.config.workers} or data.shuffle below {self.config.shuffle}"
            ) from error

    def _start(self) -> Iterator[Made | str]:
        """The workers, each at its stream's position; the first one's turn is with the stream that comes next."""
        first = self._made % self.streams
        order = [(first + number) % self.streams for number in range(self.streams)]
        loader = DataLoader(
            _Turns([self._makers[number] for number in order], [self._positions[number] for number in order]),
            batch_size=None,
            collate_fn=_sent,
            num_workers=self.config.workers,
            worker_init_fn=_ignore_signals,
        )
        others = set(multiprocessing.active_children())
        with _no_handler_of_dead_workers():
            batches = iter(loader)
        atexit.register(_kill, set(multiprocessing.active_children()) - others)
        return batches

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, those of all processes: each of them must call."""
        own = {"positions": list(self._positions), "made": self._made, "taken": self._taken, "bad": self._bad}
        own["fingerprints"] = [list(fingerprint) for fingerprint in self._fingerprints]
        if self.world_size == 1:
            return {"processes": [own]}
        processes: list[Any] = [None] * self.world_size
        dist.all_gather_object(processes, own)
        return {"processes": processes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state of another number of processes goes on as far into the data, and in another order.

        Raises PhenakiError for that of another number of workers, and for that of other data.
        """
        processes = state["processes"]
        streams = len(processes[0]["positions"])
        if streams != self.streams:
            raise PhenakiError(
                f"this run was saved by {len(processes)} processes with {streams} data streams each, and now there are "
                f"{self.world_size} with {self.streams}: go on with data.workers as before"
            )
        same = len(processes) == self.world_size
        own = processes[self.rank] if same else self._resharded(processes)
        for source, saved, now in zip(self.config.sources, own["fingerprints"], self._fingerprints, strict=True):
            _check_same(source.uri, DatasetFingerprint(*saved), now)
        self._positions, self._made = own["positions"], own["made"]
        self._taken, self._bad = own["taken"], own["bad"]
        self._loader = self._next = None

    def _resharded(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        """What each process goes on from, where there were others: they had made as many batches each."""
        positions = [position for process in processes for position in process["positions"]]
        by_stream = [position.get("sources", [{} for _ in self._sources]) for position in positions]
        count = self.world_size * self.streams
        sources = [
            source.resharded([one[number] for one in by_stream], count) for number, source in enumerate(self._sources)
        ]
        made_before = [position.get("batches", 0) for position in processes[0]["positions"]]
        return processes[0] | {
            "positions": [{"batches": batches, "sources": list(sources)} for batches in made_before],
            "taken": sum(process["taken"] for process in processes) // self.world_size,
            "bad": sum(process["bad"] for process in processes) // self.world_size,
        }


class _Turns(IterableDataset):
    """In a worker: the batches of its own stream."""

    def __init__(self, makers: list[_Maker], positions: list[dict[str, Any]]):
        self.makers, self.positions = makers, positions

    def __iter__(self) -> Iterator[Made | str]:
        worker = get_worker_info()
        number = worker.id if worker else 0
        try:
            yield from self.makers[number].batches(self.positions[number])
        except Gone as error:
            yield f"{error} Once it is back, the same command goes on from the checkpoint."
        except PhenakiError as error:  # as data, for DataLoader would make a traceback of it
            yield str(error)


class _Maker:
    """Makes the batches of stream `number` of the process `rank`."""

    def __init__(
        self,
        config: DataConfig,
        sources: list[Source],
        counts: list[list[int]],
        check_caption: Callable[[str], None] | None,
        number: int,
        rank: int,
        world_size: int,
    ):
        self.config, self.sources, self.counts, self.check_caption = config, sources, counts, check_caption
        self.number, streams = number, max(config.workers, 1)
        index, window_bytes = rank * streams + number, _WINDOW_BYTES // len(sources)
        self.stream = StreamConfig(config.seed, index, world_size * streams, config.shuffle, window_bytes=window_bytes)

    def batches(self, position: dict[str, Any]) -> Iterator[Made]:
        """The stream's batches from `position` on; the random numbers of a batch are a function of its number.

        Its length and source are the same in all processes, so that none waits for another's larger batch.
        """
        number = position.get("batches", 0)
        positions = list(position.get("sources", [{} for _ in self.sources]))
        items = [source.items(self.stream, start) for source, start in zip(self.sources, positions, strict=True)]
        while True:
            rng = np.random.default_rng([self.config.seed, self.stream.index, number])
            shared = np.random.default_rng([self.config.seed, self.number, number, 1])  # 1: never the same as `rng`
            kind = int(shared.choice(len(self.counts), p=self.config.length_weights))
            chosen = self._choose(self.config.lengths[kind], shared)
            view = self.config.view(self.config.lengths[kind], self.config.sources[chosen])
            samples: list[Sample | Tokens] = []
            bad: list[str] = []
            taken = 0
            while len(samples) < self.counts[kind][chosen]:
                item, positions[chosen] = next(items[chosen])
                taken += 1
                try:
                    sample = self.sources[chosen].checked_sample(item, view, rng, self.check_caption)
                except BadSample as error:
                    bad.append(str(error))
                else:
                    samples += [sample] if sample is not None else []
                self._check_hope(chosen, len(samples), taken, bad)
            number += 1
            yield Made(collate(samples), {"batches": number, "sources": list(positions)}, taken, bad)

    def _check_hope(self, chosen: int, usable: int, taken: int, bad: list[str]) -> None:
        """Raise PhenakiError where it looks as if a batch will never be full."""
        uri, passed_over = self.config.sources[chosen].uri, taken - usable - len(bad)
        if len(bad) > _HOPELESS * (1 + usable):
            raise PhenakiError(
                f"'{uri}' has {usable} usable samples and {len(bad)} bad ones in a row; the last one: {bad[-1]}"
            )
        if passed_over > _ALL_PICTURES * (1 + usable):
            raise _pictures_alone(self.config, uri)

    def _choose(self, frames: int, rng: np.random.Generator) -> int:
        """The source of a batch."""
        weights = np.array(self.config.weights(frames))
        return int(rng.choice(len(weights), p=weights / weights.sum()))


def _counts(config: DataConfig, period: int, world_size: int) -> list[list[int]]:
    """Clips of each length and source in a batch of a process, so that all batches have about as many tokens."""

    def tokens(frames: int, size: tuple[int, int]) -> int:  # of a clip, times the pixels of a patch
        return latent_frames(frames, period) * size[0] * size[1]

    whole = config.batch // world_size * tokens(max(config.lengths), config.image_size)
    sizes = [config.size_of(source) for source in config.sources]
    return [[whole // tokens(frames, size) for size in sizes] for frames in config.lengths]


def _check_usable(
    config: DataConfig, sources: list[Source], counts: list[list[int]], check_caption: Callable[[str], None] | None
) -> None:
    """Raise PhenakiError unless each source has a usable sample of the longest clips that are asked of it, and a batch
    has room for one."""
    asked = [frames for frames, share in zip(config.lengths, config.length_weights, strict=True) if share]
    for number, source in enumerate(sources):
        of_it = [frames for frames in asked if config.weights(frames)[number]]
        if of_it:
            view = config.view(max(of_it), config.sources[number])
            if not counts[config.lengths.index(view.frames)][number]:
                raise _no_room(config, config.sources[number].uri, view)
            _check_source(config, number, source, view, check_caption)


def _check_source(
    config: DataConfig, number: int, source: Source, view: ClipView, check_caption: Callable[[str], None] | None
) -> None:
    uri, rng = config.sources[number].uri, np.random.default_rng(config.seed)
    bad: list[str] = []
    pictures = 0
    for item, _ in source.items(StreamConfig(config.seed, shuffle=1, epochs=1), {}):  # 1: nothing is read ahead
        try:
            if source.checked_sample(item, view, rng, check_caption) is not None:
                return
            pictures += 1
        except BadSample as error:
            bad.append(str(error))
        if len(bad) > _HOPELESS or pictures > _ALL_PICTURES:
            break
    if pictures and not bad:
        raise _pictures_alone(config, uri)
    last = f"0 usable samples and {len(bad)} bad ones; the last one: {bad[-1]}" if bad else "no samples at all"
    raise PhenakiError(f"'{uri}' has {last}")


def _no_room(config: DataConfig, uri: str, view: ClipView) -> PhenakiError:
    whole, clip = ("{}x{}".format(*size) for size in (config.image_size, view.size))
    return PhenakiError(
        f"data.batch {config.batch} of data.size {whole} gives each process fewer tokens than one clip of "
        f"{view.frames} frames of {clip} pixels from '{uri}': raise data.batch, or give this source a smaller size"
    )


def _pictures_alone(config: DataConfig, uri: str) -> PhenakiError:
    return PhenakiError(
        f"'{uri}' has still pictures alone, and data.lengths {config.lengths} want clips: say images: true of this "
        "source, so that it serves images only"
    )


def _check_same(uri: str, saved: DatasetFingerprint, now: DatasetFingerprint) -> None:
    """Raise PhenakiError where a source has changed since its state was saved."""
    if saved == now:
        return
    had = f"{saved.count:,} {saved.what}"
    change = f"it had {had} and has {now.count:,} {now.what}"
    if (saved.what, saved.count) == (now.what, now.count):
        change = f"its {had} have other names"
    raise PhenakiError(
        f"'{uri}' has changed since this run was saved ({change}), so it cannot go on with the samples that were to "
        "come: restore the data, or name another folder to train in"
    )


def collate(samples: Sequence[Sample] | Sequence[Tokens]) -> Batch:
    """Samples of one kind, length and size as a batch."""
    batch: Batch = {
        "captions": [sample.caption for sample in samples],
        "continued": torch.tensor([sample.continued for sample in samples]),
    }
    if isinstance(samples[0], Sample):
        return batch | {"video": torch.from_numpy(np.stack([sample.video for sample in samples]))}
    batch["ids"] = torch.from_numpy(np.stack([sample.ids for sample in samples]))
    if samples[0].text is not None:
        texts = [torch.from_numpy(sample.text).float() for sample in samples]
        batch["text"] = pad_sequence(texts, batch_first=True)
        batch["text_mask"] = pad_sequence([torch.ones(len(text), dtype=torch.bool) for text in texts], batch_first=True)
    return batch


@contextmanager
def _no_handler_of_dead_workers() -> Iterator[None]:
    """torch's would raise in the middle of whatever the training does at that moment. The next batch raises as well,
    where the training can still be saved."""
    settable = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if settable else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


def _sent(made: Made | str) -> Made | str:
    """With small tensors as arrays: those are copied, while each tensor comes over a connection of its own."""
    if isinstance(made, str):
        return made
    small = {name: value.numpy() for name, value in made.batch.items() if _is_small(value)}
    return made._replace(batch=made.batch | small)


def _is_small(value: Any) -> bool:
    return isinstance(value, Tensor) and value.nbytes < _SMALL


def _received(batch: dict[str, Any]) -> Batch:
    arrays = {name: torch.from_numpy(value) for name, value in batch.items() if isinstance(value, np.ndarray)}
    return batch | arrays


def _kill(workers: set[BaseProcess]) -> None:
    """Those that are left when Python ends, after an error: it would ask them by a signal, which they ignore, and wait
    for ever."""
    for worker in workers:
        worker.kill()


def _ignore_signals(worker: int) -> None:
    """Ctrl-C goes to the whole process group; the main process alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
