"""Folders of numbered frames, as `generate -o frames/` writes them, decoded as a clip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from phenaki.core.errors import BadSample
from phenaki.media import pictures
from phenaki.media.convert import Frames
from phenaki.media.metadata import read_metadata
from phenaki.media.timing import Timeline
from phenaki.media.view import (
    FPS,
    ClipView,
    Framing,
    MediaInfo,
    Timed,
    TimedClip,
    clip_frames,
    clip_instants,
    reading_errors,
)

ENDING = "/"  # in place of a file's
_NUMBERED = re.compile(r"frame[_-]?(\d+)\.(?:png|jpe?g|webp|bmp|tiff?)", re.IGNORECASE)


def is_clip(names: Iterable[str]) -> bool:
    """Whether media files of these names in one folder are the frames of a clip: frame_0001.png and so on."""
    found = list(names)
    return len(found) > 1 and all(map(_NUMBERED.fullmatch, found))


def read_clip(folder: Path, view: ClipView, rng: np.random.Generator) -> TimedClip:
    starts = read_timeline(folder).starts
    instants = clip_instants(starts[0], starts[-1], view, rng)
    framing = Framing(view, rng)
    visible = clip_frames(zip(starts, [*_files(folder), None], strict=True), instants)
    clip: list[Frames] = []
    for file, same in groupby(visible):
        clip += [_render(file, framing)] * len(list(same))
    return TimedClip(np.stack(clip), instants)


def read_frames(folder: Path, framing: Framing, since: float = 0.0) -> Iterator[Timed]:
    *starts, end = read_timeline(folder).starts.tolist()
    for start, file in zip(starts, _files(folder), strict=True):
        yield start, partial(_render, file, framing)
    yield end, None


def read_timeline(folder: Path) -> Timeline:
    rate = _rate(folder)
    return Timeline(np.arange(len(_files(folder)) + 1) / float(rate), rate)


def probe(folder: Path) -> MediaInfo:
    timeline = read_timeline(folder)
    with open(_files(folder)[0], "rb") as file:
        first = pictures.probe(file)
    return MediaInfo(timeline.frames, timeline.mean_rate, first.width, first.height, timeline.seconds)


def is_interlaced(folder: Path) -> bool:
    return False


def _files(folder: Path) -> list[Path]:
    found = [(int(match[1]), file) for file in folder.iterdir() if (match := _NUMBERED.fullmatch(file.name))]
    if not found:
        raise BadSample("it holds no numbered frames")
    return [file for _, file in sorted(found)]


def _rate(folder: Path) -> Fraction:
    """What the first frame says of it, if it says so."""
    fps = (read_metadata(folder) or {}).get("fps")
    return Fraction(fps if isinstance(fps, int | float) and 0.01 <= fps <= 1000 else FPS).limit_denominator(1001)


def _render(path: Path, framing: Framing) -> Frames:
    with reading_errors(), open(path, "rb") as file:
        return next(pictures.read_frames(file, framing))[1]()
