"""The clips that a reconstruction is measured on: of the procedural world, or of any place that data comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.config import SHAPES, DataConfig, SourceConfig
from phenaki.data.opening import check_holds_clips, keeps_back, open_source
from phenaki.data.sources import Sample, Stream
from phenaki.evaluation.generate import FRAMES
from phenaki.evaluation.protocol import FITTED, measured_on, unseen_world
from phenaki.media.reader import ClipView
from phenaki.tokenizers import Tokenizer
from phenaki.worlds.shapes import Sample as Scene

CLIPS = 512
_MOST_BAD = 10  # bad samples per wished clip, after which no more are looked for


@dataclass
class Clips:
    """Always the same `count` clips of a place, fewer where it holds no more, fitted to a tokenizer.

    Of a packed data set they are those that were kept back from training. Samples that cannot be used are left out,
    and named in `left_out`. `protocol` says which clips these were, once they have been gone through.
    """

    tokenizer: Tokenizer
    place: str = SHAPES
    count: int = CLIPS
    frames: int = FRAMES
    seed: int = 0
    left_out: list[str] = field(default_factory=list, init=False)
    protocol: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise PhenakiError(f"{self.count} clips cannot be measured: give 1 or more")
        self.tokenizer.grid(self.frames, *self.tokenizer.config.image_size)

    def __iter__(self) -> Iterator[Sample | Scene]:
        """Samples, each with its `video` uint8 (T, H, W, 3); those of the procedural world with their claims.

        Raises PhenakiError for a place without a usable clip, and as `open_source` does.
        """
        samples, told = self._world() if self.place == SHAPES else self._data()
        digest, count = hashlib.sha256(), 0
        for sample in samples:
            digest.update(np.ascontiguousarray(sample.video))
            count += 1
            yield sample
        if not count:
            problem = f": {self.left_out[-1]}" if self.left_out else ""
            raise PhenakiError(f"'{self.place}' has no usable clip of {self.frames} frames{problem}")
        self.protocol = {"clips": count, "clips_sha256": digest.hexdigest(), **told}

    def _world(self) -> tuple[Iterator[Scene], dict[str, Any]]:
        world = unseen_world(self.tokenizer, frames=self.frames)
        return (world[index] for index in range(self.count)), measured_on(world) | {"range": FITTED["range"]}

    def _data(self) -> tuple[Iterator[Sample], dict[str, Any]]:
        config = self.tokenizer.config
        view = ClipView(self.frames, config.fps, tuple(config.image_size), random=False)
        check_holds_clips(self.place)
        split = "validation" if keeps_back(self.place) else "train"
        told = {
            "data": self.place,
            "split": split,
            "seed": self.seed,
            "frames": self.frames,
            "fps": config.fps,
            "size": list(config.image_size),
            "place_in_time": "middle",
            **FITTED,
        }
        return self._usable(view, split), told

    def _usable(self, view: ClipView, split: str) -> Iterator[Sample]:
        place = SourceConfig(self.place)
        data = DataConfig((place,), size=view.size, fps=view.fps, lengths=(self.frames,), seed=self.seed)
        source = open_source(place, data, captions=False, split=split)
        found, rng = 0, np.random.default_rng(self.seed)
        for item, _ in source.items(Stream(self.seed, epochs=1), {}):
            try:
                sample = source.sample(item, view, rng)
            except BadSample as error:
                self.left_out.append(str(error))
                sample = None
            if sample is not None:
                found += 1
                yield sample
            if found == self.count or len(self.left_out) == self.count * _MOST_BAD:
                return
