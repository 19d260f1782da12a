"""The clips that a run is judged by while it trains: fixed ones, and where there are such, ones it never trains on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.config import SHAPES, DataConfig, SourceConfig
from phenaki.data.opening import keeps_back, open_source
from phenaki.data.sources import Sample, Stream
from phenaki.data.tokens import Tokens

_MOST_BAD, _MOST = 10, 100  # bad items, and items of any kind, per wished clip, after which no more are looked for


class Shown(NamedTuple):
    """name: "test" for clips that are not trained on, else "seen". checkable: whether the checker of the procedural
    world can judge what is generated from the captions."""

    samples: list[Sample] | list[Tokens]
    name: str
    checkable: bool


def shown(
    config: DataConfig,
    count: int = 32,
    captions: bool = True,
    check_caption: Callable[[str], None] | None = None,
) -> Shown:
    """Some clips, always the same, of the longest length and of `data.size`: those of `data.validation`; without one,
    of the first source of such clips, of the part that it keeps back from training, if it does. `captions` and
    `check_caption` as for `Batches`.

    Raises PhenakiError where there is no usable clip.
    """
    place = min(config.sources, key=lambda source: (source.images, config.size_of(source) != config.image_size))
    place = replace(place, size=0)
    if config.validation:
        place = SourceConfig(config.validation, templates=place.templates)
    kept_back = keeps_back(place.place)
    if not kept_back and config.validation and _trains_on(config, config.validation):
        raise PhenakiError(f"data.validation '{config.validation}' is trained on: name a place that is not, or none")
    source = open_source(place, config, captions, split="validation" if kept_back else "train")
    view = replace(config.view(max(config.lengths), place), random=False, flip=False)
    rng = np.random.default_rng(config.seed)
    samples: list[Sample | Tokens] = []
    bad: list[str] = []
    looked_at = 0
    for item, _ in source.items(Stream(config.seed, shuffle=count * _MOST_BAD, epochs=1), {}):
        if len(samples) == count or len(bad) == count * _MOST_BAD or looked_at == count * _MOST:
            break
        looked_at += 1
        try:
            sample = source.checked_sample(item, view, rng, check_caption)
        except BadSample as error:
            bad.append(str(error))
        else:
            samples += [sample] if sample is not None else []
    if not samples:
        problem = bad[-1] if bad else f"{looked_at} samples were looked at, and none is a video"
        raise PhenakiError(f"'{place.place}' has no usable clip of {view.frames} frames: {problem}")
    return Shown(samples, "test" if kept_back or config.validation else "seen", place.place == SHAPES)


def _trains_on(config: DataConfig, place: str) -> bool:
    return os.path.normpath(place) in [os.path.normpath(source.place) for source in config.sources]
