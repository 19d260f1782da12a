"""Clips on which a reconstruction is measured: of a procedural world, or of any data source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.opening import check_has_clips, has_validation, open_source
from phenaki.data.sources import Sample, StreamConfig
from phenaki.evaluation.generate import FRAMES
from phenaki.evaluation.protocol import PREPROCESSING
from phenaki.evaluation.world import World
from phenaki.media.view import ClipView
from phenaki.tokenizers import Tokenizer

CLIPS = 512
_MAX_BAD = 10  # bad samples per requested clip, after which the search ends


@dataclass
class Clips:
    """Always the same `count` clips, or all there are if fewer, at the size and rate of a tokenizer.

    `source`: a data URI, or a `World`. Of a packed data set the validation split is taken. Unusable samples are skipped
    and listed in `skipped`; without a caption too, if `captions` is set. `protocol` describes the clips after an
    iteration.
    """

    tokenizer: Tokenizer
    source: str | World
    count: int = CLIPS
    frames: int = FRAMES
    seed: int = 0
    captions: bool = False
    skipped: list[str] = field(default_factory=list, init=False)
    protocol: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise PhenakiError(f"cannot measure {self.count} clips: give 1 or more")
        self.tokenizer.grid(self.frames, *self.tokenizer.config.image_size)

    def __iter__(self) -> Iterator[Any]:
        """Samples, each with its `video` uint8 (T, H, W, 3); those of a world with `caption` and `kind`.

        Raises PhenakiError for a source without a usable clip, and as `open_source` does.
        """
        if isinstance(self.source, str):
            samples, protocol = self._of_data(self.source)
        else:
            samples, protocol = (
                self.source.clips(self.count),
                self.source.protocol() | {"range": PREPROCESSING["range"]},
            )
        digest, count = hashlib.sha256(), 0
        for sample in samples:
            digest.update(np.ascontiguousarray(sample.video))
            count += 1
            yield sample
        if not count:
            reason = f": {self.skipped[-1]}" if self.skipped else ""
            raise PhenakiError(f"'{self.source}' has no usable clip of {self.frames} frames{reason}")
        self.protocol = {"clips": count, "clips_sha256": digest.hexdigest(), **protocol}

    def _of_data(self, uri: str) -> tuple[Iterator[Sample], dict[str, Any]]:
        config = self.tokenizer.config
        view = ClipView(self.frames, config.fps, tuple(config.image_size), random=False)
        check_has_clips(uri)
        split = "validation" if has_validation(uri) else "train"
        protocol = {
            "data": uri,
            "split": split,
            "seed": self.seed,
            "frames": self.frames,
            "fps": config.fps,
            "size": list(config.image_size),
            "temporal_crop": "center",
            **PREPROCESSING,
        }
        return self._usable(uri, view, split), protocol

    def _usable(self, uri: str, view: ClipView, split: str) -> Iterator[Sample]:
        config = SourceConfig(uri)
        data = DataConfig((config,), size=view.size, fps=view.fps, lengths=(self.frames,), seed=self.seed)
        source = open_source(config, data, captions=self.captions, split=split)
        found, rng = 0, np.random.default_rng(self.seed)
        for item, _ in source.items(StreamConfig(self.seed, epochs=1), {}):
            try:
                sample = source.sample(item, view, rng)
            except BadSample as error:
                self.skipped.append(str(error))
                sample = None
            if sample is not None:
                found += 1
                yield sample
            if found == self.count or len(self.skipped) == self.count * _MAX_BAD:
                return
