"""Cutting videos: finding hard cuts, and re-encoding pieces of a video."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import TimedCaption
from phenaki.media.convert import Frames
from phenaki.media.reader import probe, read_frames, read_starts, read_timeline
from phenaki.media.view import TOLERANCE, MediaInfo, Timed, check_frames, visible_at
from phenaki.media.writer import encode_mp4

KEY_FRAME_EVERY = 24  # frames: a clip from a random place is then read three times as fast as with x264's 250
QUALITY = 19  # x264's crf; 18 can hardly be told from the source

_SHORTEST = 0.1  # seconds of a clip: shorter ones are images, and a source would become thousands of them
THUMBNAIL = 32  # px, short side of the frames in which cuts are searched: motion blurs away, a cut stays
_BINS = 16  # of each channel's histogram
_NEIGHBOURS = 4  # frames on either side that a cut must stand out from
_TIMES = 2.0  # times the largest difference among neighbours: fast motion lasts, and a flash reverts
_LEAST_CHANGE = 12.0  # mean difference in levels of 255
_LEAST_NEW_COLOURS = 0.2  # fraction of the histogram: moving objects keep their colours


@dataclass(frozen=True)
class Cutting:
    """How sources are cut and re-encoded; with the defaults they stay unchanged.

    fps: of the clips; 0 keeps the source's.
    size: short side in px, never scaled up; 0 keeps the source's.
    seconds: of a clip; 0 takes the complete source or shot. A last piece of less than half of it is dropped, unless it
        is the only one.
    shots: split at hard cuts.
    """

    fps: float = 0.0
    size: int = 0
    seconds: float = 0.0
    shots: bool = False

    def __post_init__(self) -> None:
        if self.fps and not 0.01 <= self.fps <= 1000:
            raise PhenakiError(f"fps {self.fps:g} must be between 0.01 and 1000, or 0 for the source's")
        if self.size < 0 or self.size % 2 or self.size == 2:
            raise PhenakiError(f"size {self.size} must be an even number from 4 on, or 0 for the source's")
        if self.seconds and not _SHORTEST <= self.seconds < math.inf:
            raise PhenakiError(f"seconds {self.seconds:g} must be {_SHORTEST} or more, or 0 for all of the source")

    @property
    def changes(self) -> bool:
        return self != Cutting()


class CutClip(NamedTuple):
    """A piece of a source: the bytes of a media file, its suffix and properties, and where it starts, in seconds; the
    bytes of its action table, if it has one, and its captions if they change."""

    media: bytes
    suffix: str
    info: MediaInfo
    start: float
    actions: bytes = b""
    timed_captions: tuple[TimedCaption, ...] = ()


def find_cuts(frames: Iterable[NDArray[np.uint8]]) -> list[int]:
    """Indices of the frames that start a new shot, except the very first.

    frames: uint8 (H, W, 3), small and of one size; two are held at a time. Shots of less than 5 frames are not found;
    fades and dissolves are not hard cuts.
    """
    differences = list(_differences(frames))
    if not differences:
        return []
    change, new_colours = np.array(differences).T
    score = change * new_colours
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(score, _NEIGHBOURS), 2 * _NEIGHBOURS + 1)
    neighbours = np.delete(windows, _NEIGHBOURS, axis=1).max(axis=1)
    cut = (change > _LEAST_CHANGE) & (new_colours > _LEAST_NEW_COLOURS) & (score > _TIMES * neighbours)
    return (np.flatnonzero(cut) + 1).tolist()


def _differences(frames: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[float, float]]:
    """Between consecutive frames: the mean difference in levels, and the fraction of the histogram that is new."""
    before = None
    for frame in frames:
        now = frame.astype(np.int16), _histogram(frame)
        if before is not None:
            yield np.abs(now[0] - before[0]).mean(), np.abs(now[1] - before[1]).sum() / 2
        before = now


def _histogram(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Normalized histogram of the channels, summing to 1."""
    levels = frame.reshape(-1, 3) // (256 // _BINS) + np.arange(3) * _BINS
    return np.bincount(levels.ravel(), minlength=3 * _BINS) / levels.size


# clips


def cut_clips(
    path: Path, suffix: str, cutting: Cutting, within: tuple[float, float] | None = None
) -> Iterator[CutClip]:
    """The clips of a source as H.264 in mp4, without sound; a still image stays an image.

    `within`: the seconds of the file that are the source; None: all.
    One decoded frame and one encoded clip are in memory at a time; the source is decoded twice only to find hard cuts.
    Raises BadSample for a source that cannot be read to its end.
    """
    info = probe(path, suffix)
    size = _scaled_size(info, cutting.size)
    if info.seconds == 0:
        yield _still(path, suffix, info, size) if cutting.size else CutClip(path.read_bytes(), suffix, info, 0.0)
        return
    grid = None if cutting.fps else read_timeline(path, suffix).grid
    fps = grid or Fraction(cutting.fps or info.fps).limit_denominator(1001)
    if not 0.01 <= fps <= 1000:
        raise BadSample(f"{info.fps:g} frames per second, where 0.01 to 1000 are taken")
    check_frames(info.seconds, max(float(fps), 1 / (cutting.seconds or info.seconds)))
    parts, begin = _shots(path, suffix, info) if cutting.shots else [(0.0, info.seconds)], None
    if within is not None:
        parts, begin = _parts_within(parts, within, info), float(read_starts(path, suffix)[0])
    spans = list(_pieces(parts, cutting.seconds))
    instants = [
        start + np.arange(max(1, math.ceil((end - start - TOLERANCE) * float(fps)))) / float(fps)
        for start, end in spans
    ]
    times = np.concatenate(instants).astype(float)
    timed = read_frames(path, suffix, size, None if begin is None else begin + times[0])
    frames = _frames_at(timed, times, begin)
    for (start, _), times in zip(spans, instants, strict=True):
        media = encode_mp4(islice(frames, len(times)), fps, size, crf=QUALITY, g=KEY_FRAME_EVERY)
        height, width = size
        yield CutClip(media, ".mp4", MediaInfo(len(times), float(fps), width, height, len(times) / float(fps)), start)


def _parts_within(
    parts: Iterable[tuple[float, float]], within: tuple[float, float], info: MediaInfo
) -> list[tuple[float, float]]:
    """What of the parts lies within a span. Raises BadSample for one after the end of the video."""
    first, last = max(0.0, within[0]), min(info.seconds, within[1])
    if last < first + TOLERANCE:
        span = f"{within[0]:.2f} to {within[1]:.2f} s"
        raise BadSample(f"it lies from {span} of its video, which ends at {info.seconds:.2f} s")
    cut = [(max(first, a), min(last, b)) for a, b in parts]
    return [(a, b) for a, b in cut if b > a + TOLERANCE]


def _scaled_size(info: MediaInfo, short_side: int) -> tuple[int, int]:
    """Height and width, even as H.264 requires, with the requested short side unless the source's is shorter."""
    scale = min(1.0, (short_side or math.inf) / min(info.height, info.width))
    return tuple(max(2, round(side * scale / 2) * 2) for side in (info.height, info.width))


def _shots(path: Path, suffix: str, info: MediaInfo) -> list[tuple[float, float]]:
    """Start and end of each shot, in seconds from the first frame."""
    starts: list[float] = []

    def thumbnails() -> Iterator[Frames]:
        for begin, render in read_frames(path, suffix, _scaled_size(info, THUMBNAIL)):
            starts.append(begin)
            if render:
                yield render()

    edges = [0, *find_cuts(thumbnails()), -1]
    return [(starts[a] - starts[0], starts[b] - starts[0]) for a, b in zip(edges, edges[1:], strict=False)]


def _pieces(spans: Iterable[tuple[float, float]], seconds: float) -> Iterator[tuple[float, float]]:
    """The spans in pieces of `seconds`; 0 keeps them whole."""
    for start, end in spans:
        length = seconds or end - start
        yield start, min(end, start + length)
        for number in range(1, math.floor((end - start) / length + 0.5 + TOLERANCE)):
            yield start + number * length, min(end, start + (number + 1) * length)


def _frames_at(timed: Iterator[Timed], instants: NDArray[np.float64], begin: float | None) -> Iterator[Frames]:
    """The frame that is shown at each of the ascending instants, in seconds from `begin` (None: the first frame's)."""
    first = next(timed)
    instants = instants + (first[0] if begin is None else begin)
    for render, repeats in groupby(visible_at(chain([first], timed), instants)):
        picture = render()
        for _ in repeats:
            yield picture


def _still(path: Path, suffix: str, info: MediaInfo, size: tuple[int, int]) -> CutClip:
    _, render = next(read_frames(path, suffix, size))
    picture = Image.fromarray(render())
    buffer = io.BytesIO()
    lossy = suffix in (".jpg", ".jpeg")
    picture.save(buffer, "JPEG", quality=95) if lossy else picture.save(buffer, "PNG")
    return CutClip(buffer.getvalue(), ".jpg" if lossy else ".png", info._replace(width=size[1], height=size[0]), 0.0)
