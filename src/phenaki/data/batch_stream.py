"""The batches of one data stream: which length and source each has, and which samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.data.batch import BatchResult, collate
from phenaki.data.config import DataConfig
from phenaki.data.sources import Sample, Source, StreamConfig
from phenaki.data.tokens import Tokens
from phenaki.media.view import ClipView

_MAX_BAD = 64  # bad samples per good one, beyond which a source is given up
_MAX_STILLS = 10_000  # still images per video, beyond which a source counts as one of images
_WINDOW_BYTES = 64 * 2**20  # of encoded samples that a worker holds in shuffle buffers, over all sources

CheckCaption = Callable[[str], None]


class BatchStream:
    """Stream `index` of the process `rank`, which has as many streams as workers, at least one.

    batch_sizes: clips in a batch, by length and source.
    """

    def __init__(
        self,
        config: DataConfig,
        sources: list[Source],
        batch_sizes: list[list[int]],
        check_caption: CheckCaption | None,
        index: int,
        rank: int,
        world_size: int,
    ):
        self.config, self.sources, self.batch_sizes, self.check_caption = config, sources, batch_sizes, check_caption
        self.index, streams = index, max(config.workers, 1)
        overall, window_bytes = rank * streams + index, _WINDOW_BYTES // len(sources)
        self.stream = StreamConfig(
            config.seed, overall, world_size * streams, config.shuffle, window_bytes=window_bytes
        )

    def batches(self, position: dict[str, Any]) -> Iterator[BatchResult]:
        """The stream's batches from `position` on. The random numbers of a batch are a function of its number.

        Its length and source are the same in all processes, so that none waits for another's larger batch.
        """
        number = position.get("batches", 0)
        positions = list(position.get("sources", [{} for _ in self.sources]))
        items = [source.items(self.stream, start) for source, start in zip(self.sources, positions, strict=True)]
        while True:
            rng = np.random.default_rng([self.config.seed, self.stream.index, number])
            shared_rng = np.random.default_rng([self.config.seed, self.index, number, 1])  # 1: never equal to `rng`
            length = int(shared_rng.choice(len(self.batch_sizes), p=self.config.length_weights))
            selected = self._choose_source(self.config.lengths[length], shared_rng)
            view = self.config.view(self.config.lengths[length], self.config.sources[selected])
            samples: list[Sample | Tokens] = []
            bad: list[str] = []
            read = 0
            while len(samples) < self.batch_sizes[length][selected]:
                item, positions[selected] = next(items[selected])
                read += 1
                try:
                    sample = self.sources[selected].checked_sample(item, view, rng, self.check_caption)
                except BadSample as error:
                    bad.append(str(error))
                else:
                    samples += [sample] if sample is not None else []
                self._check_progress(selected, len(samples), read, bad)
            number += 1
            yield BatchResult(collate(samples), {"batches": number, "sources": list(positions)}, read, bad)

    def _check_progress(self, selected: int, usable: int, read: int, bad: list[str]) -> None:
        """Raise PhenakiError if the batch will probably never be full."""
        uri, stills = self.config.sources[selected].uri, read - usable - len(bad)
        if len(bad) > _MAX_BAD * (1 + usable):
            raise PhenakiError(
                f"'{uri}' yields {usable} usable samples and {len(bad)} bad ones in a row; the last one: {bad[-1]}"
            )
        if stills > _MAX_STILLS * (1 + usable):
            raise _only_images(self.config, uri)

    def _choose_source(self, frames: int, rng: np.random.Generator) -> int:
        weights = np.array(self.config.weights(frames))
        return int(rng.choice(len(weights), p=weights / weights.sum()))


def batch_sizes(config: DataConfig, period: int, world_size: int) -> list[list[int]]:
    """Clips in a process's batch, by length and source, such that all batches have about the same number of tokens.

    period: frames per latent frame.
    """

    def tokens(frames: int, size: tuple[int, int]) -> int:  # of a clip, times the pixels of a patch
        return latent_frames(frames, period) * size[0] * size[1]

    budget = config.batch // world_size * tokens(max(config.lengths), config.image_size)
    sizes = [config.size_of(source) for source in config.sources]
    return [[budget // tokens(frames, size) for size in sizes] for frames in config.lengths]


def check_sources(
    config: DataConfig, sources: list[Source], sizes: list[list[int]], check_caption: CheckCaption | None
) -> None:
    """Raise PhenakiError unless each source has a usable sample of the longest clips it serves, and every batch of
    those holds at least one."""
    used = [frames for frames, weight in zip(config.lengths, config.length_weights, strict=True) if weight]
    for index, source in enumerate(sources):
        served = [frames for frames in used if config.weights(frames)[index]]
        if served:
            view = config.view(max(served), config.sources[index])
            if not sizes[config.lengths.index(view.frames)][index]:
                raise _batch_too_small(config, config.sources[index].uri, view)
            _check_source(config, index, source, view, check_caption)


def _check_source(
    config: DataConfig, index: int, source: Source, view: ClipView, check_caption: CheckCaption | None
) -> None:
    uri, rng = config.sources[index].uri, np.random.default_rng(config.seed)
    bad: list[str] = []
    stills = 0
    for item, _ in source.items(StreamConfig(config.seed, shuffle=1, epochs=1), {}):  # 1: nothing is read ahead
        try:
            if source.checked_sample(item, view, rng, check_caption) is not None:
                return
            stills += 1
        except BadSample as error:
            bad.append(str(error))
        if len(bad) > _MAX_BAD or stills > _MAX_STILLS:
            break
    if stills and not bad:
        raise _only_images(config, uri)
    problem = f"0 usable samples and {len(bad)} bad ones; the last one: {bad[-1]}" if bad else "no samples"
    raise PhenakiError(f"'{uri}' has {problem}")


def _batch_too_small(config: DataConfig, uri: str, view: ClipView) -> PhenakiError:
    full, clip = ("{}x{}".format(*size) for size in (config.image_size, view.size))
    return PhenakiError(
        f"data.batch {config.batch} at data.size {full} gives each process fewer tokens than one clip of {view.frames} "
        f"frames of {clip} pixels from '{uri}': raise data.batch, or set a smaller size for this source"
    )


def _only_images(config: DataConfig, uri: str) -> PhenakiError:
    return PhenakiError(
        f"'{uri}' has only still images, but data.lengths {config.lengths} include clips: set images: true for this "
        "source, so that it serves one-frame batches only"
    )
