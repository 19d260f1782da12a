"""What a training sees: places with weights, and the clips that are made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phenaki.data.media import ClipView
from phenaki.errors import PhenakiError

SHAPES = "shapes"  # the place of the procedural world


@dataclass(frozen=True)
class SourceConfig:
    """A place that samples come from, and how often.

    place: "shapes" (the procedural world), a folder of videos and pictures, tar shards ("clips/train-{000..127}.tar", a
    folder of them), or either at http(s):// or s3://. weight: against the other sources. images: its samples serve
    one-frame batches only; where any source says so, such batches come from those sources alone. templates: captions
    for samples that have a label, such as "a video of {label}"; with them, files of a folder have as label the name of
    the folder that they lie in. objects (1, 2; 0 mixes both) and continued (share of clips that go on from an earlier
    scene) belong to the procedural world.
    """

    place: str = SHAPES
    weight: float = 1.0
    images: bool = False
    templates: tuple[str, ...] = ()
    objects: int = 0
    continued: float = 0.3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise PhenakiError(f"the weight {self.weight} of '{self.place}' must be above 0: else leave it out")


@dataclass(frozen=True)
class DataConfig:
    """What a training sees.

    `lengths` and `length_shares`: frames per clip and in which share of the steps; images are clips of 1 frame (paper,
    section 2.2). All clips of a batch come from one source and have one length; shorter clips come in larger batches,
    so that every step has about as many tokens. `batch`: clips of the longest length in a step, over all processes.
    `size`: side, or (height, width), in px; `fps`: of the clips, whatever that of the files. `flip`: mirror half of
    the clips (not where captions tell left from right). `validation`: a place that is not trained on, for the pictures
    and test figures of a run. `shuffle`: samples of a shard source that are mixed at a time. `bad_share`: training
    stops where more than this share of the samples drawn cannot be used; it is applied from 100 draws on, and a sample
    counts each time that it is drawn. `workers`: processes that decode, per training process; each holds two batches
    made ahead, 3 bytes a pixel, and up to 64 MB of the files of shards that are being mixed.
    """

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    validation: str = ""
    size: int | tuple[int, int] = 64
    fps: float = 8.0
    batch: int = 16
    lengths: tuple[int, ...] = (11,)
    length_shares: tuple[float, ...] = (1.0,)
    flip: bool = False
    shuffle: int = 1000
    bad_share: float = 0.1
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        shares = self.length_shares
        whole = min(shares, default=-1) >= 0 and abs(sum(shares) - 1) <= 1e-6  # NaN is neither
        if len(self.lengths) != len(shares) or not whole:
            raise PhenakiError(
                f"data.lengths {self.lengths} and data.length_shares {self.length_shares}: "
                "give one share for each length, 1 in all"
            )
        if not self.sources:
            raise PhenakiError("data.sources is empty: name at least one place")
        if max(self.lengths) > 1 and all(source.images for source in self.sources):
            raise PhenakiError(
                f"data.lengths {self.lengths} ask for clips, and all data.sources are of images: add one of videos"
            )
        for name, least in (("batch", 1), ("workers", 0), ("shuffle", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise PhenakiError(f"data.{name} {getattr(self, name)} must be {least} or more")
        if not 0 <= self.bad_share <= 1:
            raise PhenakiError(f"data.bad_share {self.bad_share} is a share of the samples, from 0 to 1")

    @property
    def image_size(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def places(self) -> list[str]:
        """Of all sources, and of the clips for validation."""
        return [source.place for source in self.sources] + ([self.validation] if self.validation else [])

    def weights(self, frames: int) -> list[float]:
        """How often a batch of so many frames is of each source. Images come from sources of images, where there are
        any, clips never do."""
        images = frames == 1 and any(source.images for source in self.sources)
        return [source.weight * (source.images == images) for source in self.sources]

    def view(self, frames: int) -> ClipView:
        """What a training clip of so many frames shows of a file."""
        return ClipView(frames, self.fps, self.image_size, random=True, flip=self.flip)

    def check_tokenizer(self, image_size: tuple[int, int], fps: float) -> None:
        """Raise PhenakiError unless the clips have the size and the rate for which a tokenizer is built."""
        if tuple(image_size) != self.image_size:
            raise PhenakiError(
                f"data.size {self.size} does not fit this tokenizer, whose image_size is {list(image_size)}: "
                "make them equal"
            )
        if fps != self.fps:
            raise PhenakiError(f"data.fps {self.fps:g} does not fit this tokenizer, of fps {fps:g}: make them equal")
