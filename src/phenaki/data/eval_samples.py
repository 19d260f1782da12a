"""Fixed samples on which a run is evaluated while it trains, held out from training where possible."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.opening import has_validation, open_source
from phenaki.data.sources import ProceduralSource, Sample, StreamConfig
from phenaki.data.tokens import Tokens

_MAX_BAD, _MAX_EXAMINED = 10, 100  # bad items, and items of any kind, per requested clip, before giving up


class EvalSamples(NamedTuple):
    """name: "test" for samples held out from training, "seen" for training samples. checkable: whether the samples
    come from a procedural world, whose checker can score what is generated from their captions."""

    samples: list[Sample] | list[Tokens]
    name: str
    checkable: bool


def eval_samples(
    config: DataConfig,
    count: int = 32,
    captions: bool = True,
    check_caption: Callable[[str], None] | None = None,
    actions: bool = False,
) -> EvalSamples:
    """A fixed set of samples of the longest length and of `data.size`.

    They come from `data.validation`; without one, from the validation split of the first source of such clips, or from
    its training samples if it has none. `captions`, `check_caption` and `actions` as for `Batches`.

    Raises PhenakiError if there is no usable sample.
    """
    selected = min(config.sources, key=lambda source: (source.images, config.size_of(source) != config.image_size))
    selected = replace(selected, size=0)
    if config.validation:
        selected = SourceConfig(config.validation, templates=selected.templates)
    held_out = has_validation(selected.uri)
    if not held_out and config.validation and _trains_on(config, config.validation):
        raise PhenakiError(
            f"data.validation '{config.validation}' is also a training source: name another source, or none"
        )
    source = open_source(selected, config, captions, "validation" if held_out else "train", actions)
    view = replace(config.view(max(config.lengths), selected), random=False, flip=False)
    rng = np.random.default_rng(config.seed)
    samples: list[Sample | Tokens] = []
    bad: list[str] = []
    examined = 0
    for item, _ in source.items(StreamConfig(config.seed, shuffle=count * _MAX_BAD, epochs=1), {}):
        if len(samples) == count or len(bad) == count * _MAX_BAD or examined == count * _MAX_EXAMINED:
            break
        examined += 1
        try:
            sample = source.checked_sample(item, view, rng, check_caption)
        except BadSample as error:
            bad.append(str(error))
        else:
            samples += [sample] if sample is not None else []
    if not samples:
        problem = bad[-1] if bad else f"none of the first {examined} samples is a video"
        raise PhenakiError(f"'{selected.uri}' has no usable clip of {view.frames} frames: {problem}")
    name = "test" if held_out or config.validation else "seen"
    return EvalSamples(samples, name, isinstance(source, ProceduralSource))


def _trains_on(config: DataConfig, uri: str) -> bool:
    return os.path.normpath(uri) in [os.path.normpath(source.uri) for source in config.sources]
