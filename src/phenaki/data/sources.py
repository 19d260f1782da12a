"""Sources of training samples behind one interface: a procedural world, a folder, tar shards.

A source yields streams of items, endless ones for training. Each item comes with the position after it, a small plain
dictionary from which an equal stream resumes: that is all a checkpoint needs. Stream `index` of `count` takes its part
of the samples, so that together the streams see every sample once per epoch; the order is a function of seed and epoch.
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

from phenaki.core.actions import ActionSpec
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.worlds import World
from phenaki.data.actions import DATASET, read_table
from phenaki.data.captions import check_caption_starts, clip_captions, draw_caption
from phenaki.data.folder import Folder
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import Unreadable, read_shard
from phenaki.data.storage import open_from
from phenaki.media.reader import read_starts, read_timed_clip
from phenaki.media.view import ClipView, StillPicture, visible_frames

Position = dict[str, int]
_Item = EncodedSample | BadSample

_NUMBER = int | float
_METADATA = {"source": str, "start": _NUMBER, "fps": _NUMBER, "width": int, "height": int, "seconds": _NUMBER}


class SourceLost(PhenakiError):
    """A source that was readable and no longer is, as opposed to one with bad samples."""


class DatasetFingerprint(NamedTuple):
    """Identifies the data of a source: the number of its `unit` ("files", "shards"), a digest of their names, and its
    actions, such as "left (button), mouse_x (relative)"; "" without."""

    unit: str
    count: int
    digest: str
    actions: str = ""


class SampleMetadata(TypedDict, total=False):
    """The sample's name in its source, and what a shard says about its media: the original file, where in it the clip
    starts (seconds), frames per second, size in px, and duration in seconds."""

    name: str
    source: str
    start: float
    fps: float
    width: int
    height: int
    seconds: float


class Sample(NamedTuple):
    """A clip uint8 (T, H, W, 3), its caption ("" if it has none), whether it continues an earlier scene, and metadata,
    which no training sees.

    actions: float32 (T, A), row 0 zero, of a source that has them and is asked for them. timed_captions: (frame,
    caption) of each caption, the first at frame 0, if they change within the clip; else ().
    """

    video: np.ndarray
    caption: str
    continued: bool = False
    metadata: SampleMetadata = {}
    actions: np.ndarray | None = None
    timed_captions: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class StreamConfig:
    """Stream `index` of `count`, ordered by `seed`.

    shuffle: size of the shuffle buffer in samples, 0 for stored order; it never exceeds `window_bytes` of media.
    epochs: after which the stream ends, 0 for never.
    """

    seed: int = 0
    index: int = 0
    count: int = 1
    shuffle: int = 1000
    epochs: int = 0
    window_bytes: int = 64 * 2**20


class Source(ABC):
    """`items` are cheap to hold, a file or its bytes; `sample` decodes one.

    actions: what the columns of its samples' actions are; None if they have none, or none are asked for.
    """

    actions: ActionSpec | None = None

    @abstractmethod
    def fingerprint(self) -> DatasetFingerprint:
        """Found without reading the data. A stream resumes only if it has not changed."""

    @abstractmethod
    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[Any, Position]]:
        """Items from `position` on ({} is the beginning), each with the position after it.

        A BadSample stands for an item that could not be read. Raises SourceLost if nothing can be read any more.
        """

    def resharded(self, positions: Sequence[Position], count: int) -> Position:
        """The position from which each of `count` streams resumes when other streams stopped at `positions`."""
        return {"taken": -(-sum(position.get("taken", 0) for position in positions) // count)}

    @abstractmethod
    def sample(self, item: Any, view: ClipView, rng: np.random.Generator) -> Sample | None:
        """The clip of an item in `view`; None for a still image if more frames are wanted, which is no error.

        Raises BadSample, with the sample's name, if it cannot be decoded or is too short, or if the item is one.
        """

    def checked_sample(
        self, item: Any, view: ClipView, rng: np.random.Generator, check_caption: Callable[[str], None] | None
    ) -> Sample | None:
        """Like `sample`; also raises BadSample for a caption that `check_caption` refuses with a PhenakiError."""
        sample = self.sample(item, view, rng)
        if sample is not None and check_caption:
            try:
                for caption in (sample.caption, *(text for _, text in sample.timed_captions)):
                    check_caption(caption)
            except PhenakiError as error:
                raise BadSample(f"{getattr(item, 'name', item)}: {error}") from error
        return sample


class ProceduralSource(Source):
    """Samples of a procedural world; an epoch has no end."""

    def __init__(self, world: World, actions: bool = False):
        self.world = world
        self.actions = world.actions if actions else None

    def fingerprint(self) -> DatasetFingerprint:
        """The configuration determines the data."""
        return DatasetFingerprint("scenes", 0, "")

    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[int, Position]]:
        taken = position.get("taken", 0)
        while True:
            yield stream.index + taken * stream.count, {"taken": taken + 1}
            taken += 1

    def sample(self, item: int, view: ClipView, rng: np.random.Generator) -> Sample:
        sample = self.world.sample(item, view.frames)
        actions = sample.actions if self.actions else None
        if self.actions and view.frames == 1:
            actions = np.zeros((1, len(self.actions)), np.float32)
        metadata: SampleMetadata = {"name": f"scene {item}"}
        return Sample(sample.video, sample.caption, sample.continued, metadata, actions, sample.timed_captions)


class MediaSource(Source):
    """Encoded videos and images. At each use one of their captions is drawn, or made from a label and a template.

    actions: of their tables; None if they have none, or are not asked for them.
    """

    def __init__(self, templates: tuple[str, ...] = (), captions: bool = True, actions: ActionSpec | None = None):
        self.templates, self.captions, self.actions = templates, captions, actions

    def sample(self, item: _Item, view: ClipView, rng: np.random.Generator) -> Sample | None:
        if isinstance(item, BadSample):
            raise item
        try:
            clip = read_timed_clip(item.media, item.suffix, view, rng)
            timing = read_starts(item.media, item.suffix) if item.timed_captions or self.actions else np.zeros(1)
            caption, timed = self._captions(item, clip.instants, timing, rng)
            actions = self._actions(item, clip.instants, timing)
        except StillPicture:
            return None
        except BadSample as error:
            raise BadSample(f"{item.name}: {error}") from error
        return Sample(clip.frames, caption, False, _metadata(item), actions, timed)

    def _captions(
        self, item: EncodedSample, instants: np.ndarray, timing: np.ndarray, rng: np.random.Generator
    ) -> tuple[str, tuple[tuple[int, str], ...]]:
        """The first caption of a clip, and all of them if they change within it."""
        if item.timed_captions:
            check_caption_starts(item.timed_captions, timing[-1] - timing[0])
            return clip_captions(item.timed_captions, instants - timing[0])
        caption = draw_caption(item.captions, item.label, self.templates, rng)
        if self.captions and not caption:
            raise BadSample(self.no_caption(item))
        return caption, ()

    def _actions(self, item: EncodedSample, instants: np.ndarray, timing: np.ndarray) -> np.ndarray | None:
        if self.actions:
            table = read_table(item, self.actions, frames=len(timing) - 1)
            return self.actions.resample(table, visible_frames(timing[:-1], instants))
        if item.actions is not None:
            raise BadSample(f"it has an action table, but no {DATASET} with the data says what its columns are")
        return None

    def no_caption(self, item: EncodedSample) -> str:
        return "it has no caption"


class FolderSource(MediaSource):
    """The files of a folder, shuffled anew for each epoch."""

    def __init__(self, folder: Folder, templates: tuple[str, ...] = (), captions: bool = True):
        super().__init__(templates, captions, folder.actions)
        self.folder = folder

    def fingerprint(self) -> DatasetFingerprint:
        return DatasetFingerprint("files", len(self.folder), self.folder.digest())

    def no_caption(self, item: EncodedSample) -> str:
        parent = posixpath.basename(posixpath.dirname(item.key))
        if not parent or self.templates:
            return "it has no caption"
        return (
            f"it has no caption; to make one of its folder's name '{parent}', give the source templates such as "
            "'a video of {label}'"
        )

    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[_Item, Position]]:
        taken = position.get("taken", 0)
        while True:
            epoch, index = divmod(stream.index + taken * stream.count, len(self.folder))
            if stream.epochs and epoch >= stream.epochs:
                return
            taken += 1
            file = int(_order(len(self.folder), stream.seed, epoch)[index]) if stream.shuffle else index
            yield self.folder[file], {"taken": taken}


class ShardSource(MediaSource):
    """Samples of tar shards: the shards shuffled for each epoch, their samples window by window.

    If there are fewer shards than streams, several streams read the same shard and take every n-th of its samples.
    read_actions: whether action tables are read; without `actions` those that have one are bad.
    """

    def __init__(
        self,
        shards: Sequence[str],
        templates: tuple[str, ...] = (),
        captions: bool = True,
        read_actions: bool = False,
        actions: ActionSpec | None = None,
    ):
        super().__init__(templates, captions, actions)
        self.shards, self.read_actions = list(shards), read_actions

    def fingerprint(self) -> DatasetFingerprint:
        names = "\n".join(self.shards).encode(errors="replace")
        return DatasetFingerprint("shards", len(self.shards), sha256(names).hexdigest())

    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[_Item, Position]]:
        start = {key: position.get(key, 0) for key in ("part", "offset", "number", "window")}
        yielded = position.get("yielded", 0)
        for window, end in _windows(self._read(stream, start), stream):
            order = np.arange(len(window))
            if stream.shuffle:
                order = np.random.default_rng([stream.seed, stream.index, start["window"]]).permutation(len(window))
            for index in range(yielded, len(window)):
                yield window[order[index]], start | {"yielded": index + 1}
            start, yielded = end | {"window": start["window"] + 1}, 0
            window.clear()  # frees its bytes before the next window is read

    def resharded(self, positions: Sequence[Position], count: int) -> Position:
        """By complete shards: some samples are seen twice in this epoch, or not at all."""
        epochs = sum(position.get("part", 0) for position in positions) / self._parts(len(positions))
        return {"part": round(epochs * self._parts(count) / count)}

    def _parts(self, count: int) -> int:
        """Shards, or parts of shards, that `count` streams read in an epoch."""
        return len(self.shards) * -(-count // len(self.shards))

    def _read(self, stream: StreamConfig, start: Position) -> Iterator[tuple[_Item | None, Position]]:
        """The stream's samples in stored order, each with the position of the next one; None ends an epoch."""
        readers = -(-stream.count // len(self.shards))  # per shard
        parts = self._parts(stream.count)
        part, offset, number = start["part"], start["offset"], start["number"]
        empty = 0
        while True:
            epoch, index = divmod(stream.index + part * stream.count, parts)
            if stream.epochs and epoch >= stream.epochs:
                return
            shard, reader = divmod(index, readers)
            if stream.shuffle:
                shard = int(_order(len(self.shards), stream.seed, epoch)[shard])
            empty += 1
            for sample, following in read_shard(self.shards[shard], offset, self.captions, self.read_actions):
                if isinstance(sample, Unreadable):
                    self._check_others(shard, sample)
                number += 1
                if (number + epoch) % readers == reader:
                    empty = 0
                    yield sample, {"part": part, "offset": following, "number": number}
            if empty > 2 * parts:
                raise PhenakiError(f"the shards hold no samples: {', '.join(self.shards[:3])} ...")
            part, offset, number = part + 1, 0, 0
            if (stream.index + part * stream.count) // parts > epoch:
                yield None, {"part": part, "offset": 0, "number": 0}

    def _check_others(self, shard: int, found: Unreadable) -> None:
        """Raise SourceLost if another of the first shards cannot be opened either."""
        other = self.shards[0 if shard else min(1, len(self.shards) - 1)]
        try:
            open_from(other).close()
        except (PhenakiError, OSError) as error:
            raise SourceLost(f"{found} '{other}' cannot be opened either, so the source seems lost.") from error


def _windows(
    reader: Iterator[tuple[_Item | None, Position]], stream: StreamConfig
) -> Iterator[tuple[list[_Item], Position]]:
    """The reader's samples in shuffle windows, which end with an epoch, and the position after each."""
    window: list[_Item] = []
    held = 0
    for item, end in reader:
        if item is not None:
            window.append(item)
            held += len(item.media) if isinstance(item, EncodedSample) else 0
        if item is None or len(window) >= stream.shuffle or held >= stream.window_bytes:
            yield window, end
            window, held = [], 0


def _metadata(item: EncodedSample) -> SampleMetadata:
    """Only values of the expected types: in a third-party shard they may be anything."""
    metadata: SampleMetadata = {"name": item.key}
    for name, kind in _METADATA.items():
        if isinstance(item.metadata.get(name), kind):
            metadata[name] = item.metadata[name]
    return metadata


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
