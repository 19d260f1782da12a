"""From trees of videos and pictures to shards for training: OUT/train/shard-*.tar and OUT/validation/shard-*.tar.

What becomes of a source is a function of its bytes and the options, and samples are written in an order that follows
from the names of the sources: so the shards are the same for any number of processes, and however often packing was
stopped and taken up again. The order mixes folders, since a training shuffles no more than a window of a shard. A
journal holds what became of each source, and how many samples are in finished shards.
"""

from __future__ import annotations

import bisect
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phenaki.core.config import to_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.progress import track
from phenaki.data.captions import USUAL_COLUMNS, CaptionTable, Columns, check_template
from phenaki.data.cuts import CutClip, Cutting, cut_clips
from phenaki.data.folder import Folder
from phenaki.data.journal import SPLITS, Journal, Outcome
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import ShardWriter
from phenaki.data.storage import check_outside, is_remote, join, to_json, write_json
from phenaki.media.reader import probe

DATASET, REPORT = "dataset.json", "report.json"

_AHEAD = 4  # sources per process that are worked on before their turn to be written
_LARGEST = 2 * 2**30  # bytes of a file that goes in as it is; readers take no more
_NAMED = 20  # of each kind in the printed report; all are in report.json


@dataclass(frozen=True)
class PackConfig:
    """What `pack` makes of which sources.

    sources: folders of videos and pictures; out: a folder or an s3:// place. table: captions or labels of files
    (`captions.CaptionTable`), instead of tables in the sources; columns: of the table, or of theirs; label_from_folder:
    the folder's name is the label of files without one; templates: with {label}, such as "a video of {label}", stored
    beside the shards and drawn from at each use. cutting: how sources become clips. validation: share of the sources
    that is kept back from training. shard_bytes, shard_samples: most of a shard. processes: 0 for as many as there are
    cores.
    """

    sources: tuple[Path, ...]
    out: str
    table: Path | None = None
    columns: Columns = Columns()
    label_from_folder: bool = False
    templates: tuple[str, ...] = ()
    cutting: Cutting = Cutting()
    validation: float = 0.05
    shard_bytes: int = 256 * 2**20
    shard_samples: int = 10_000
    processes: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise PhenakiError("There is nothing to pack: name at least one folder of videos or pictures.")
        for template in self.templates:
            check_template(template)
        if not 0 <= self.validation < 1:
            raise PhenakiError(f"validation {self.validation} is a share of the sources, from 0 to below 1.")
        for name, least in (("shard_bytes", 1), ("shard_samples", 1), ("processes", 0)):
            if getattr(self, name) < least:
                raise PhenakiError(f"{name} {getattr(self, name)} must be {least} or more.")

    def options(self) -> dict[str, Any]:
        """What decides the content of the shards, as plain data."""
        return {key: value for key, value in to_dict(self).items() if key not in ("out", "processes")}


@dataclass
class Part:
    """One of the splits: its samples, their length, and what they take in shards."""

    samples: int = 0
    seconds: float = 0.0
    shards: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return (
            f"{self.samples:,} samples ({self.seconds / 60:,.1f} min, {self.bytes / 1e6:,.1f} MB, {self.shards} shards)"
        )


@dataclass
class PackReport:
    """What went in, and name by name what did not and why.

    refused: name -> reason; duplicates: name -> the source with the same bytes that stands for both; unclaimed: names
    in the table that are no file.
    """

    sources: int
    train: Part = field(default_factory=Part)
    validation: Part = field(default_factory=Part)
    without_caption: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    unclaimed: list[str] = field(default_factory=list)

    def parts(self) -> dict[str, Part]:
        """The splits that have samples, by name."""
        return {name: part for name in SPLITS if (part := getattr(self, name)).samples}

    def lines(self) -> list[str]:
        """For the terminal."""
        went_in = self.sources - len(self.refused) - len(self.duplicates)
        return [
            f"{went_in:,} of {self.sources:,} sources went in",
            f"  train       {self.train}",
            f"  validation  {self.validation}",
            *([f"{self.without_caption:,} without a caption or label"] if self.without_caption else []),
            *_named("refused", [f"{name}: {reason}" for name, reason in self.refused.items()]),
            *_named("left out", [f"{name}: the same bytes as {other}" for name, other in self.duplicates.items()]),
            *_named("in the table but not among the files", self.unclaimed),
        ]


def _nothing_usable(report: PackReport) -> str:
    first = [f"{name}: {reason}" for name, reason in report.refused.items()][:3]
    return f"None of the {report.sources:,} sources can be used. {'. '.join(first)}."


def _named(what: str, names: Sequence[str]) -> list[str]:
    more = [f"  and {len(names) - _NAMED:,} more, see {REPORT}"] if len(names) > _NAMED else []
    return [f"{len(names):,} {what}:", *(f"  {name}" for name in names[:_NAMED]), *more] if names else []


def pack(config: PackConfig, progress: bool = True) -> PackReport:
    """Write the sources as shards, with dataset.json and report.json beside them; see the head of this file.

    The same call goes on where an earlier one stopped. Files that cannot be used are refused and named. Raises
    PhenakiError where there is nothing to pack, no file can be used, or `out` cannot be written or holds other things.
    """
    for source in config.sources:
        check_outside(source, config.out)
    sources = _Sources(config)
    processes = min(config.processes or os.cpu_count() or 1, len(sources))
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(config.out, config.options(), sources.fingerprint()))
        if not is_remote(config.out):
            _remove_leftovers(Path(config.out.removeprefix("file://")))
        packing = _Packing(config, sources, journal, stack)
        todo = journal.todo(sources.indices)
        work = stack.enter_context(closing(_made(sources, todo, config.cutting, processes)))
        left = set(todo)
        for number in stack.enter_context(closing(track(sources.indices, "packing", progress))):
            if number in left:
                packing.take(number, *next(work))
            else:
                packing.pass_over(journal.outcomes[number])
        packing.finish()
    report = _report(sources, journal)
    if not report.parts():
        raise PhenakiError(_nothing_usable(report))
    write_json(join(config.out, REPORT), asdict(report))
    parts = {name: asdict(part) for name, part in report.parts().items()}
    about = {"templates": config.templates, "options": config.options(), "report": REPORT}
    write_json(join(config.out, DATASET), parts | about)
    return report


def _remove_leftovers(folder: Path) -> None:
    """What a killed process was writing."""
    for leftover in (*folder.glob(".phenaki-*.tmp"), *folder.glob("*/.phenaki-*.tmp")):
        leftover.unlink()


class _Sources:
    """The files of all folders, in one mixed order: by a hash of their paths inside the folders.

    doubles: number of a file -> that of the one with the same bytes that stands for both, the best described of them.
    indices: those of all others.
    """

    def __init__(self, config: PackConfig) -> None:
        self.table = CaptionTable(config.table, config.columns) if config.table else None
        self.folders = [Folder(root, self.table, config.label_from_folder, config.columns) for root in config.sources]
        if config.columns != USUAL_COLUMNS and not any(folder.has_table for folder in self.folders):
            names = ", ".join(f"'{name}'" for name in astuple(config.columns) if name)
            raise PhenakiError(
                f"There is no table to have the column {names}: name one (--table), or put captions.csv at the top of "
                "a source."
            )
        self.ends = list(accumulate(map(len, self.folders)))
        hashes = [_hash(folder.key(index)) for folder in self.folders for index in range(len(folder))]
        self.order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        if self.table:
            self.table.check_claimed()
        self.doubles = self._doubles()
        self.indices = [number for number in range(len(self)) if number not in self.doubles]

    def __len__(self) -> int:
        return self.ends[-1]

    def _find(self, number: int) -> tuple[Folder, int]:
        at = int(self.order[number])
        folder = bisect.bisect_right(self.ends, at)
        return self.folders[folder], at - (self.ends[folder] - len(self.folders[folder]))

    def __getitem__(self, number: int) -> EncodedSample | BadSample:
        folder, index = self._find(number)
        return folder[index]

    def key(self, number: int) -> str:
        folder, index = self._find(number)
        return folder.key(index)

    def _path(self, number: int) -> Path:
        folder, index = self._find(number)
        return folder.path(index)

    def name(self, number: int) -> str:
        folder, index = self._find(number)
        key = folder.key(index)
        return key if len(self.folders) == 1 else f"{folder.root}/{key}"

    def fingerprint(self) -> str:
        """Of the names, sizes and times of all files, and of what stands for which."""
        digest = hashlib.sha256()
        for number in range(len(self)):
            try:
                stat = self._path(number).stat()
                state = f"{stat.st_size} {stat.st_mtime_ns}"
            except OSError as error:
                state = f"error {error.errno}"
            digest.update(f"{self.name(number)}\0{state}\0{self.doubles.get(number, '')}\0".encode())
        return digest.hexdigest()

    def _doubles(self) -> dict[int, int]:
        sizes: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self)):
            with suppress(OSError):  # what cannot be read is refused in its turn
                sizes[self._path(number).stat().st_size].append(number)
        same: dict[str, list[int]] = defaultdict(list)
        for number in chain.from_iterable(indices for indices in sizes.values() if len(indices) > 1):
            with suppress(OSError, BadSample):
                same[_digest(self._readable(number).media)].append(number)
        doubles = {}
        for indices in same.values():
            best = max(indices, key=self._described)
            doubles |= {number: best for number in indices if number != best}
        return doubles

    def _readable(self, number: int) -> EncodedSample:
        item = self[number]
        if isinstance(item, BadSample):
            raise item
        return item

    def _described(self, number: int) -> tuple[bool, bool]:
        item = self._readable(number)
        return bool(item.captions), bool(item.label)

    def unclaimed(self) -> list[str]:
        """Names in tables that are no file."""
        unclaimed = self.table.unclaimed() if self.table else []
        return unclaimed + [name for folder in self.folders for name in folder.unclaimed]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# writing


class _Split:
    """Writes one of the splits, but for the samples that are in finished shards already."""

    def __init__(self, config: PackConfig, name: str, journal: Journal) -> None:
        self.name, self.journal = name, journal
        self.first = len(journal.shards[name])
        self.already = sum(shard.samples for shard in journal.shards[name])
        self.writer = ShardWriter(
            join(config.out, name), max_bytes=config.shard_bytes, max_samples=config.shard_samples, first=self.first
        )

    def write(self, key: str, fields: Callable[[], dict[str, bytes]]) -> None:
        if self.already:
            self.already -= 1
            return
        self.writer.write(key, fields())
        self._note_finished()

    def finish(self) -> None:
        self.writer.finish_shard()
        self._note_finished()

    def _note_finished(self) -> None:
        noted = len(self.journal.shards[self.name]) - self.first
        for shard in self.writer.finished[noted:]:
            self.journal.add_shard(self.name, shard)


class _Packing:
    """Takes what was made of the sources, in their order."""

    def __init__(self, config: PackConfig, sources: _Sources, journal: Journal, stack: ExitStack) -> None:
        self.config, self.sources, self.journal = config, sources, journal
        self.splits = {name: _Split(config, name, journal) for name in SPLITS}
        for split in self.splits.values():
            stack.enter_context(split.writer)

    def pass_over(self, outcome: Outcome) -> None:
        """A source that was packed earlier."""
        if outcome.samples:
            self.splits[outcome.split].already -= outcome.samples

    def take(self, number: int, item: EncodedSample | BadSample, made: _Made) -> None:
        if made.refused:
            outcome = Outcome(refused=made.refused.removeprefix(f"{self.sources.key(number)}: "))
        else:
            outcome = self._write(number, item, made)
        self.journal.add_outcome(number, outcome)

    def _write(self, number: int, item: EncodedSample, made: _Made) -> Outcome:
        """By source, never by clip: clips of one source are too alike to test by."""
        split = "validation" if int(made.digest[:13], 16) / 16**13 < self.config.validation else "train"
        for part, clip in enumerate(made.clips):
            key = f"{number:08d}_{part:05d}" if self.config.cutting.changes else f"{number:08d}"
            fields = partial(_fields, item, self.sources.name(number), made.digest, clip)
            self.splits[split].write(key, fields)
        seconds = sum(clip.info.seconds for clip in made.clips)
        return Outcome(made.digest, split, len(made.clips), seconds, bool(item.captions or item.label))

    def finish(self) -> None:
        for split in self.splits.values():
            split.finish()


def _fields(item: EncodedSample, name: str, digest: str, clip: CutClip) -> dict[str, bytes]:
    media = clip.media if isinstance(clip.media, bytes) else clip.media.read_bytes()
    metadata = clip.info._asdict() | {"source": name, "hash": digest, "start": clip.start, "label": item.label}
    text = {"txt": item.captions[0].encode()} if item.captions else {}
    return {clip.suffix[1:]: media} | text | {"json": to_json(metadata | {"captions": item.captions[1:]})}


def _report(sources: _Sources, journal: Journal) -> PackReport:
    report = PackReport(len(sources), unclaimed=sources.unclaimed())
    parts = {"train": report.train, "validation": report.validation}
    for name, shards in journal.shards.items():
        parts[name].shards = len(shards)
        parts[name].bytes = sum(shard.bytes for shard in shards)
    for number in range(len(sources)):
        best = sources.doubles.get(number, number)
        outcome = journal.outcomes[best]
        if outcome.refused:
            report.refused[sources.name(number)] = outcome.refused
        elif number != best:
            report.duplicates[sources.name(number)] = sources.name(best)
        else:
            parts[outcome.split].samples += outcome.samples
            parts[outcome.split].seconds += outcome.seconds
            report.without_caption += not outcome.captioned
    report.refused = dict(sorted(report.refused.items()))
    report.duplicates = dict(sorted(report.duplicates.items()))
    return report


# working


class _Made(NamedTuple):
    """The clips of a source and the SHA-256 of its bytes, or the reason why it is refused."""

    digest: str = ""
    clips: tuple[CutClip, ...] = ()
    refused: str = ""


def _make(item: EncodedSample | BadSample, cutting: Cutting) -> _Made:
    try:
        if isinstance(item, BadSample):
            raise item
        digest = _digest(item.media)
        clips = cut_clips(item.media, item.suffix, cutting) if cutting.changes else [_as_it_is(item)]
        return _Made(digest, tuple(clips))
    except BadSample as error:
        return _Made(refused=str(error))
    except OSError as error:
        return _Made(refused=f"it cannot be read: {error.strerror or error}")


def _as_it_is(item: EncodedSample) -> CutClip:
    if (size := os.path.getsize(item.media)) > _LARGEST:
        raise BadSample(f"it has {size / 2**30:.1f} GiB; more than 2 only go in cut into clips")
    return CutClip(item.media, item.suffix, probe(item.media, item.suffix), 0.0)


def _made(
    sources: _Sources, indices: Iterable[int], cutting: Cutting, processes: int
) -> Iterator[tuple[EncodedSample | BadSample, _Made]]:
    """What is made of the sources, in the order of `indices`; a few are worked on ahead."""
    items = (sources[number] for number in indices)
    if processes == 1:
        yield from ((item, _make(item, cutting)) for item in items)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would take over locks that some thread of this process holds
    pool = ProcessPoolExecutor(processes, spawn, initializer=_start_worker)

    def submit(item: EncodedSample | BadSample) -> tuple[EncodedSample | BadSample, Future[_Made]]:
        with _interrupts_held():  # this may start a process
            return item, pool.submit(_make, item, cutting)

    try:
        futures = deque(map(submit, islice(items, _AHEAD * processes)))
        while futures:
            item, future = futures.popleft()
            yield item, future.result()
            futures.extend(map(submit, islice(items, 1)))
    except BrokenProcessPool as error:
        raise PhenakiError(
            f"A worker process died while packing '{getattr(item, 'key', item)}' or one of the {len(futures)} sources "
            "after it, perhaps out of memory. Run the same command again to resume."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM come after the block. Processes that are started in it hold Ctrl-C too, until `_start_worker`.

    A mask alone holds nothing here: another thread takes the signal, and Python raises in the main one all the same.
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
    """Ctrl-C ends a worker without a word, and a main process that is killed takes its workers along."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for what a script starts in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    main = multiprocessing.parent_process()
    threading.Thread(target=lambda: (main.join(), os._exit(1)), daemon=True).start()
