"""What a training sees: uris with weights, and the clips that are made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phenaki.core.errors import PhenakiError
from phenaki.media.view import ClipView

Size = int | tuple[int, int]  # of frames, in px: the side of a square, or (height, width)


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class SourceConfig:
    """A uri that samples come from, and how often.

    uri: "shapes" (the procedural world), a folder of videos and pictures, tar shards ("clips/train-{000..127}.tar", a
    folder of them), or either at http(s):// or s3://. weight: against the other sources. images: its samples serve
    one-frame batches only; where any source says so, such batches come from those sources alone. size: of its clips, 0
    for `data.size`; a uri may be several sources, each of another size. templates: captions for samples that have a
    label, such as "a video of {label}"; with them, files of a folder have as label the name of the folder that they lie
    in. objects (1, 2; 0 mixes both) and continued (share of clips that go on from an earlier scene) belong to the
    procedural world.
    """

    uri: str = "shapes"
    weight: float = 1.0
    images: bool = False
    size: Size = 0
    templates: tuple[str, ...] = ()
    objects: int = 0
    continued: float = 0.3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise PhenakiError(f"the weight {self.weight} of '{self.uri}' must be above 0: else leave it out")


@dataclass(frozen=True)
class DataConfig:
    """What a training sees.

    `lengths` and `length_weights`: frames per clip and in which share of the steps; images are clips of 1 frame (paper,
    section 2.2). All clips of a batch come from one source, so they have one size, and one length; shorter and smaller
    clips come in larger batches, so that every step has about as many tokens. `batch`: clips of the longest length and
    of `size` in a step, over all processes. `size`: that of the tokenizer, of the clips by which a run is judged, and
    of all sources that name no other. `fps`: of the clips, whatever that of the files. `flip`: mirror half of the clips
    (not where captions tell left from right). `validation`: a uri that is not trained on, for the pictures and test
    figures of a run. `shuffle`: samples of a shard source that are mixed at a time. `max_bad_fraction`: stops if
    more than this fraction of the samples drawn is unusable, checked from 100 draws on; a sample counts each time it is
    drawn. `workers`: processes that decode, per training process; each holds two batches made ahead, 3
    bytes a pixel, and up to 64 MB of the files of shards that are being mixed.
    """

    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    validation: str = ""
    size: Size = 64
    fps: float = 8.0
    batch: int = 16
    lengths: tuple[int, ...] = (11,)
    length_weights: tuple[float, ...] = (1.0,)
    flip: bool = False
    shuffle: int = 1000
    max_bad_fraction: float = 0.1
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        shares = self.length_weights
        whole = min(shares, default=-1) >= 0 and abs(sum(shares) - 1) <= 1e-6  # NaN is neither
        if len(self.lengths) != len(shares) or not whole:
            raise PhenakiError(
                f"data.lengths {self.lengths} and data.length_weights {self.length_weights}: "
                "give one share for each length, 1 in all"
            )
        if not self.sources:
            raise PhenakiError("data.sources is empty: name at least one uri")
        if max(self.lengths) > 1 and all(source.images for source in self.sources):
            raise PhenakiError(
                f"data.lengths {self.lengths} ask for clips, and all data.sources are of images: add one of videos"
            )
        for name, least in (("batch", 1), ("workers", 0), ("shuffle", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise PhenakiError(f"data.{name} {getattr(self, name)} must be {least} or more")
        if not 0 <= self.max_bad_fraction <= 1:
            raise PhenakiError(f"data.max_bad_fraction {self.max_bad_fraction} is a share of the samples, from 0 to 1")

    @property
    def image_size(self) -> tuple[int, int]:
        return sides(self.size)

    def size_of(self, source: SourceConfig) -> tuple[int, int]:
        """Height and width of its clips."""
        return sides(source.size or self.size)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of the clips by which a run is judged, and of those of all sources."""
        return [self.image_size, *map(self.size_of, self.sources)]

    @property
    def uris(self) -> list[str]:
        """Of all sources, and of the clips for validation."""
        return [source.uri for source in self.sources] + ([self.validation] if self.validation else [])

    def weights(self, frames: int) -> list[float]:
        """How often a batch of so many frames is of each source. Images come from sources of images, where there are
        any, clips never do."""
        images = frames == 1 and any(source.images for source in self.sources)
        return [source.weight * (source.images == images) for source in self.sources]

    def view(self, frames: int, source: SourceConfig) -> ClipView:
        """What a training clip of so many frames shows of a file."""
        return ClipView(frames, self.fps, self.size_of(source), random=True, flip=self.flip)

    def check_tokenizer(self, image_size: tuple[int, int], fps: float, patch: tuple[int, int, int]) -> None:
        """Raise PhenakiError unless `size` and `fps` are those for which a tokenizer is built, and the sizes of all
        sources multiples of its patches."""
        if tuple(image_size) != self.image_size:
            raise PhenakiError(
                f"data.size {self.size} does not fit this tokenizer, whose image_size is {list(image_size)}: "
                "make them equal"
            )
        if fps != self.fps:
            raise PhenakiError(f"data.fps {self.fps:g} does not fit this tokenizer, of fps {fps:g}: make them equal")
        for height, width in self.sizes:
            if min(height, width) < 1 or height % patch[1] or width % patch[2]:
                raise PhenakiError(
                    f"data.sources of {height}x{width} pixels do not fit this tokenizer, whose patches are "
                    f"{patch[1]}x{patch[2]}: height must be a multiple of {patch[1]}, width of {patch[2]}"
                )
