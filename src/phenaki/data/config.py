"""What a training sees: its data sources, and the clips that are made of them."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.media.view import ClipView

Size = int | tuple[int, int]  # of frames, in px: the side of a square, or (height, width)


def height_and_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@configclass
class SourceConfig:
    """A data source, and how often batches come from it.

    uri: a folder of videos and images, tar shards ("clips/train-{000..127}.tar", or a folder of them), either of them
        at http(s):// or s3://, or the name of a procedural world.
    weight: relative to the other sources.
    images: use the source for one-frame batches only. If any source sets this, all one-frame batches come from such
        sources.
    size: of its clips; 0 is `data.size`. Several sources may share a uri at different sizes.
    templates: captions for samples that have a label, such as "a video of {label}". Setting them also labels each file
        of a folder with the name of its parent folder.
    options: of a procedural world, such as {objects: 1} for "shapes".
    """

    uri: str
    weight: float = bounded(1.0, above=0)
    images: bool = False
    size: Size = 0
    templates: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@configclass
class DataConfig:
    """What a training sees.

    lengths, length_weights: frames per clip, and the probability of each; images are clips of 1 frame (paper, section
        2.2). All clips of a batch come from one source and have the same length and size. Batches of shorter or smaller
        clips hold more of them, so that every step has about the same number of tokens.
    batch: clips of the longest length and of `size` per step, over all processes.
    size: of the tokenizer, of the evaluation clips, and of every source that sets none.
    fps: of the clips, whatever the rate of the files.
    flip: mirror half of the clips; not for captions that tell left from right.
    validation: the uri of a source for evaluation during the run, not trained on.
    shuffle: size of the shuffle buffer of a shard source, in samples.
    max_bad_fraction: stop if a larger fraction of the samples drawn is unusable, checked from 100 draws on; a sample
        counts each time it is drawn.
    workers: decoding processes per training process. Each prefetches two batches, 3 bytes a pixel, and buffers up to
        64 MB of encoded samples.
    """

    sources: tuple[SourceConfig, ...]
    validation: str = ""
    size: Size = 64
    fps: float = 8.0
    batch: int = bounded(16, at_least=1)
    lengths: tuple[int, ...] = (11,)
    length_weights: tuple[float, ...] = bounded((1.0,), at_least=0)
    flip: bool = False
    shuffle: int = bounded(1000, at_least=0)
    max_bad_fraction: float = bounded(0.1, at_least=0, at_most=1)
    seed: int = bounded(0, at_least=0)
    workers: int = bounded(1, at_least=0)

    def __post_init__(self) -> None:
        weights = self.length_weights
        if len(weights) != len(self.lengths) or abs(sum(weights) - 1) > 1e-6:
            raise PhenakiError(
                f"data.lengths {self.lengths} and data.length_weights {weights}: there must be one weight per length, "
                "summing to 1"
            )
        if not self.sources:
            raise PhenakiError("data.sources is empty: name at least one")
        if max(self.lengths) > 1 and all(source.images for source in self.sources):
            raise PhenakiError(
                f"data.lengths {self.lengths} include clips, but all data.sources are images: add one of videos"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        return height_and_width(self.size)

    def size_of(self, source: SourceConfig) -> tuple[int, int]:
        """Height and width of its clips."""
        return height_and_width(source.size or self.size)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of the evaluation clips, then of the clips of each source."""
        return [self.image_size, *map(self.size_of, self.sources)]

    @property
    def uris(self) -> list[str]:
        """Of all sources, and of the validation clips."""
        return [source.uri for source in self.sources] + ([self.validation] if self.validation else [])

    def weights(self, frames: int) -> list[float]:
        """Weights of the sources for a batch of clips of so many frames."""
        images = frames == 1 and any(source.images for source in self.sources)
        return [source.weight * (source.images == images) for source in self.sources]

    def view(self, frames: int, source: SourceConfig) -> ClipView:
        """How a training clip of so many frames is cut from a file."""
        return ClipView(frames, self.fps, self.size_of(source), random=True, flip=self.flip)

    def check_tokenizer(self, image_size: tuple[int, int], fps: float, patch: tuple[int, int, int]) -> None:
        """Raise PhenakiError unless `size` and `fps` are the tokenizer's and all sizes multiples of its patch."""
        if tuple(image_size) != self.image_size:
            raise PhenakiError(f"data.size {self.size} must equal the tokenizer's image_size {list(image_size)}")
        if fps != self.fps:
            raise PhenakiError(f"data.fps {self.fps:g} must equal the tokenizer's fps {fps:g}")
        for height, width in self.sizes:
            if min(height, width) < 1 or height % patch[1] or width % patch[2]:
                raise PhenakiError(
                    f"clips of {height}x{width} pixels (data.size, data.sources) do not fit this tokenizer, whose "
                    f"patches are {patch[1]}x{patch[2]}: height must be a multiple of {patch[1]}, width of {patch[2]}"
                )
