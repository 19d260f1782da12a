"""Samples of a procedural world, which draws them instead of reading them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from phenaki.core.errors import PhenakiError
from phenaki.core.registry import WORLDS
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.sources import DatasetFingerprint, Position, Sample, Source, StreamConfig
from phenaki.media.view import ClipView


class WorldSample(Protocol):
    """A clip uint8 (T, H, W, 3) with its caption; `continued`: it continues an earlier scene."""

    video: np.ndarray
    caption: str
    continued: bool


class World(Protocol):
    """Endless samples by index, the same in every process."""

    def __getitem__(self, index: int) -> WorldSample: ...


class WorldSource(Source):
    """Samples of `clips`, and of `images` for batches of one frame. Shorter clips are the first frames of `clips`."""

    def __init__(self, clips: World, images: World) -> None:
        self.clips, self.images = clips, images

    def fingerprint(self) -> DatasetFingerprint:
        """The configuration says it all."""
        return DatasetFingerprint("scenes", 0, "")

    def items(self, stream: StreamConfig, position: Position) -> Iterator[tuple[int, Position]]:
        """Endless: a world has no epochs."""
        taken = position.get("taken", 0)
        while True:
            yield stream.index + taken * stream.count, {"taken": taken + 1}
            taken += 1

    def sample(self, item: int, view: ClipView, rng: np.random.Generator) -> Sample:
        sample = (self.clips if view.frames > 1 else self.images)[item]
        return Sample(sample.video[: view.frames], sample.caption, sample.continued, {"name": f"scene {item}"})


def is_world(uri: str) -> bool:
    """Whether the URI names a registered world."""
    return uri in WORLDS


def open_world(source: SourceConfig, config: DataConfig, split: str) -> WorldSource:
    """The training or the test split of the world that `source.uri` names.

    Raises PhenakiError for settings that the world does not accept.
    """
    if source.uri not in WORLDS:
        raise PhenakiError(f"'{source.uri}' is not a procedural world; there are {', '.join(WORLDS) or 'none'}")

    def world(frames: int, continued: float) -> World:
        return WORLDS[source.uri](
            seed=config.seed,
            split="train" if split == "train" else "test",
            size=config.size_of(source),
            frames=frames,
            objects=source.objects or None,
            continued=continued,
        )

    frames = max(config.lengths)
    return WorldSource(world(frames, source.continued if frames > 1 else 0.0), world(frames, 0.0))
