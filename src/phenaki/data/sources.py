"""Sources of training samples behind one interface: a folder, shards.

A source hands out streams of items, endless ones for training. Each item comes with the position after it, a small
plain dictionary from which an equal stream goes on: that is all a checkpoint needs. Of `count` streams, stream `index`
takes its own share, so that together they see every sample once per epoch; the order is a function of seed and epoch.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, TypedDict

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import draw_caption
from phenaki.data.folder import Folder
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import Unreadable, read_shard
from phenaki.data.storage import open_from
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView, StillPicture

Position = dict[str, int]

_TOLD = {"source": str, "start": int | float, "fps": int | float, "width": int, "height": int, "seconds": int | float}


class Gone(PhenakiError):
    """A place that could be read and no longer can: it is not its samples that are bad."""


class DatasetFingerprint(NamedTuple):
    """By which a source is known again: how many of `what` ("files", "shards") it has, and a digest of their names."""

    what: str
    count: int
    digest: str


class SampleMetadata(TypedDict, total=False):
    """Where a sample is from: its name in its source, and what a shard tells of its medium: the file it was made of,
    the second there at which it starts, its frames per second, its size in px and its length in seconds."""

    name: str
    source: str
    start: float
    fps: float
    width: int
    height: int
    seconds: float


class Sample(NamedTuple):
    """A clip uint8 (T, H, W, 3), its caption ("" where there is none), whether it goes on from an earlier scene, and
    metadata, for people: no training sees them."""

    video: np.ndarray
    caption: str
    continued: bool = False
    metadata: SampleMetadata = {}


@dataclass(frozen=True)
class StreamConfig:
    """Which of `count` streams, and the seed of its order. `shuffle`: samples that are mixed, 0 for all in the order in
    which they lie; fewer where their files have more than `window_bytes`. `epochs`: after which it ends, 0 for never.
    """

    seed: int = 0
    index: int = 0
    count: int = 1
    shuffle: int = 1000
    epochs: int = 0
    window_bytes: int = 64 * 2**20


class Source(ABC):
    """`items` are cheap to hold, a file or its bytes; `sample` does the work of decoding one."""

    @abstractmethod
    def fingerprint(self) -> DatasetFingerprint:
        """What there is, found out without reading it: a stream goes on only where that is still the same."""

    @abstractmethod
    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[Any, Position]]:
        """Items, each with the position after it, from `position` on ({} is the beginning).

        An item that is a BadSample stands for what could not be read. Raises Gone where nothing can be any more.
        """

    def resharded(self, positions: Sequence[Position], count: int) -> Position:
        """The position from which each of `count` streams goes on where others, at `positions`, were as far in all."""
        return {"taken": -(-sum(position.get("taken", 0) for position in positions) // count)}

    @abstractmethod
    def sample(self, item: Any, view: ClipView, rng: np.random.Generator) -> Sample | None:
        """The clip of an item in `view`; None for a still picture where more frames are wanted, which is no fault.

        Raises BadSample, with its name, for what cannot be decoded or is too short, and for an item that is one.
        """

    def checked_sample(
        self, item: Any, view: ClipView, rng: np.random.Generator, check_caption: Callable[[str], None] | None
    ) -> Sample | None:
        """As `sample`; one whose caption `check_caption` refuses, with a PhenakiError, is a bad one too."""
        sample = self.sample(item, view, rng)
        if sample is not None and check_caption:
            try:
                check_caption(sample.caption)
            except PhenakiError as error:
                raise BadSample(f"{getattr(item, 'name', item)}: {error}") from error
        return sample


class Media(Source):
    """Encoded videos and images. At each use one of their captions is drawn, or made from a label and a template."""

    def __init__(self, templates: tuple[str, ...] = (), captions: bool = True):
        self.templates, self.captions = templates, captions

    def sample(self, item: EncodedSample | BadSample, view: ClipView, rng: np.random.Generator) -> Sample | None:
        if isinstance(item, BadSample):
            raise item
        try:
            clip = read_clip(item.media, item.ending, view, rng)
        except StillPicture:
            return None
        except BadSample as error:
            raise BadSample(f"{item.name}: {error}") from error
        caption = draw_caption(item.captions, item.label, self.templates, rng)
        if self.captions and not caption:
            raise BadSample(f"{item.name}: {self.no_caption(item)}")
        return Sample(clip, caption, metadata=_metadata(item))

    def no_caption(self, item: EncodedSample) -> str:
        return "it has no caption"


class FolderSource(Media):
    """The files of a folder, in an order of its own for each epoch."""

    def __init__(self, folder: Folder, templates: tuple[str, ...] = (), captions: bool = True):
        super().__init__(templates, captions)
        self.folder = folder

    def fingerprint(self) -> DatasetFingerprint:
        return DatasetFingerprint("files", len(self.folder), self.folder.digest())

    def no_caption(self, item: EncodedSample) -> str:
        inside = posixpath.basename(posixpath.dirname(item.key))
        if not inside or self.templates:
            return "it has no caption"
        return (
            f"it has no caption; for one of its folder's name, '{inside}', give its source templates, such as "
            "'a video of {label}'"
        )

    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[EncodedSample | BadSample, Position]]:
        taken = position.get("taken", 0)
        while True:
            epoch, place = divmod(stream.index + taken * stream.count, len(self.folder))
            if stream.epochs and epoch >= stream.epochs:
                return
            taken += 1
            number = int(_order(len(self.folder), stream.seed, epoch)[place]) if stream.shuffle else place
            yield self.folder[number], {"taken": taken}


class ShardSource(Media):
    """Samples of tar shards: the shards in an order of its own for each epoch, their samples mixed window by window.

    Where there are fewer shards than streams, several streams share a shard and each takes every n-th of its samples.
    """

    def __init__(self, shards: Sequence[str], templates: tuple[str, ...] = (), captions: bool = True):
        super().__init__(templates, captions)
        self.shards = list(shards)

    def fingerprint(self) -> DatasetFingerprint:
        return DatasetFingerprint(
            "shards", len(self.shards), sha256("\n".join(self.shards).encode(errors="replace")).hexdigest()
        )

    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[EncodedSample | BadSample, Position]]:
        start = {key: position.get(key, 0) for key in ("part", "offset", "number", "window")}
        given = position.get("given", 0)
        for window, end in _windows(self._read(stream, start), stream):
            order = np.arange(len(window))
            if stream.shuffle:
                order = np.random.default_rng([stream.seed, stream.index, start["window"]]).permutation(len(window))
            for place in range(given, len(window)):
                yield window[order[place]], start | {"given": place + 1}
            start, given = end | {"window": start["window"] + 1}, 0
            window.clear()  # its bytes go before the next ones come

    def resharded(self, positions: Sequence[Position], count: int) -> Position:
        """By whole shards: some samples are seen twice in this epoch, or not at all."""
        epochs = sum(position.get("part", 0) for position in positions) / self._parts(len(positions))
        return {"part": round(epochs * self._parts(count) / count)}

    def _parts(self, count: int) -> int:
        """Parts of shards that an epoch of `count` streams has."""
        return len(self.shards) * -(-count // len(self.shards))

    def _read(
        self, stream: StreamConfig, start: Position
    ) -> Iterator[tuple[EncodedSample | BadSample | None, Position]]:
        """The stream's samples as they lie, each with the place where the next one begins; None ends an epoch."""
        sharers = -(-stream.count // len(self.shards))
        parts = self._parts(stream.count)
        part, offset, number = start["part"], start["offset"], start["number"]
        empty = 0
        while True:
            epoch, place = divmod(stream.index + part * stream.count, parts)
            if stream.epochs and epoch >= stream.epochs:
                return
            shard, share = divmod(place, sharers)
            if stream.shuffle:
                shard = int(_order(len(self.shards), stream.seed, epoch)[shard])
            empty += 1
            for sample, following in read_shard(self.shards[shard], offset, self.captions):
                if isinstance(sample, Unreadable):
                    self._check_others(shard, sample)
                number += 1
                if (number + epoch) % sharers == share:
                    empty = 0
                    yield sample, {"part": part, "offset": following, "number": number}
            if empty > 2 * parts:
                raise PhenakiError(f"there are no samples in the shards: {', '.join(self.shards[:3])} ...")
            part, offset, number = part + 1, 0, 0
            if (stream.index + part * stream.count) // parts > epoch:
                yield None, {"part": part, "offset": 0, "number": 0}

    def _check_others(self, shard: int, found: Unreadable) -> None:
        """Raise Gone where another shard, one of the first, cannot be opened either."""
        other = self.shards[0 if shard else min(1, len(self.shards) - 1)]
        try:
            open_from(other).close()
        except (PhenakiError, OSError) as error:
            raise Gone(f"{found} Nor can '{other}' be opened, so the place counts as gone.") from error


def _windows(
    reader: Iterator[tuple[EncodedSample | BadSample | None, Position]], stream: StreamConfig
) -> Iterator[tuple[list[EncodedSample | BadSample], Position]]:
    """The reader's samples by as many as are mixed and fit in memory, of one epoch, with the place after them."""
    window: list[EncodedSample | BadSample] = []
    held = 0
    for item, end in reader:
        if item is not None:
            window.append(item)
            held += len(item.media) if isinstance(item, EncodedSample) else 0
        if item is None or len(window) >= stream.shuffle or held >= stream.window_bytes:
            yield window, end
            window, held = [], 0


def _metadata(item: EncodedSample) -> SampleMetadata:
    """Those of a stranger's shard may be anything."""
    metadata: SampleMetadata = {"name": item.key}
    for name, kind in _TOLD.items():
        if isinstance(item.metadata.get(name), kind):
            metadata[name] = item.metadata[name]
    return metadata


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
