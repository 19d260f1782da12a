"""Reads videos, animations and pictures, in memory or on disk: frames by time stamp, scaled, cropped, RGB.

Only what lies between the key frame before a clip and its last frame is decoded, and only the clip's frames are
converted. What FFmpeg knows to be broken is a BadSample, never a black or a repeated frame.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phenaki.core.arguments import check_types
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.reading import open_regular
from phenaki.media import frames, pictures, streams
from phenaki.media.convert import Frames
from phenaki.media.resample import resample
from phenaki.media.timing import Timeline
from phenaki.media.view import (
    FPS,
    MAX_INPUT_PIXELS,
    ClipView,
    Framing,
    MediaInfo,
    Timed,
    TimedClip,
    check_clip,
    reading_errors,
)

# read by Pillow, all others by FFmpeg
PICTURES = frozenset(".apng .avif .bmp .gif .heic .heif .jfif .jpeg .jpg .png .tif .tiff .webp".split())
VIDEOS = frozenset(
    ".3g2 .3gp .asf .avi .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)


_SAME_RATE = 0.02  # relative: a GIF counts in hundredths of a second


class Clip(NamedTuple):
    """Frames uint8 (T, H, W, 3), and their rate in frames per second."""

    frames: Frames
    fps: float


def read_clip(media: bytes | Path, ending: str, view: ClipView, rng: np.random.Generator) -> Frames:
    """The clip uint8 (T, H, W, 3), RGB, that `view` shows of a video, an animation or a picture.

    media: the file's bytes or path; ending: lower case with its dot, such as ".mp4". A frame is the last one whose time
    stamp is not after its instant. Pictures are turned upright, their pixels made square, and the short side scaled
    with antialiasing; transparency becomes black. Raises BadSample for a file that is corrupt there, too short or too
    elongated, and StillPicture for a still one.
    """
    return read_timed_clip(media, ending, view, rng).frames


def read_timed_clip(media: bytes | Path, ending: str, view: ClipView, rng: np.random.Generator) -> TimedClip:
    """As `read_clip`, with the instants of the frames."""
    with _opened(media, ending) as file:
        return _decoder(ending).read_clip(file, view, rng)


def read_timeline(media: bytes | Path, ending: str) -> Timeline:
    """When each of the N frames of a file starts, and the last one ends, in seconds as the file counts them.

    Where they are those of a constant rate, the rounding of the container is undone. Nothing is decoded of a video.
    Raises BadSample for a file that cannot be read.
    """
    with _opened(media, ending) as file:
        return _decoder(ending).read_timeline(file)


def read_starts(media: bytes | Path, ending: str) -> NDArray[np.float64]:
    """The starts (N + 1,) of `read_timeline`."""
    return read_timeline(media, ending).starts


def is_interlaced(media: bytes | Path, ending: str) -> bool:
    """Whether its frames consist of two half pictures of different instants, which show as combs where things move."""
    with _opened(media, ending) as file:
        return _decoder(ending).is_interlaced(file)


def read_frames(media: bytes | Path, ending: str, size: tuple[int, int], since: float | None = None) -> Iterator[Timed]:
    """All frames of a file in order, rendered on request as uint8 (H, W, 3) of `size`.

    `since`: of a video, from the key frame at or before that second on, as the file counts them.
    Raises BadSample for a file that cannot be read to its end.
    """
    framing = Framing(ClipView(1, 1.0, size, random=False), np.random.default_rng(0))
    with _opened(media, ending) as file:
        yield from _decoder(ending).read_frames(file, framing, *(() if since is None else (since,)))


def probe(media: bytes | Path, ending: str) -> MediaInfo:
    """What a file holds, by its time stamps and first frame. Raises BadSample for one that cannot be read."""
    with _opened(media, ending) as file:
        return _decoder(ending).probe(file)


@check_types
def read_video(path: str | Path) -> Clip:
    """All frames of a video, an animation or a picture, or of a folder of pictures in the order of their numbers.

    Frames are upright with square pixels. A picture and a folder have 8 frames per second; in an animation, a frame
    that lasts n times as long as the shortest is repeated n times. Raises PhenakiError for what cannot be read.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise PhenakiError(f"There is no file or folder '{path}'.")
    if path.is_dir():
        return _read_folder(path)
    ending = path.suffix.lower()
    try:
        return _read_all(path, ending)
    except BadSample as error:
        raise PhenakiError(f"'{path}': {error}.") from error


def _read_all(path: Path, ending: str) -> Clip:
    info, timeline = probe(path, ending), read_timeline(path, ending)
    repeats, fps = np.ones(timeline.frames, int), info.fps or FPS
    if ending in PICTURES and timeline.rate is None and timeline.frames > 1:
        durations = np.diff(timeline.starts)
        step = durations[durations < 1.5 * durations.min()].mean()
        repeats, fps = np.maximum(1, (durations / step).round().astype(int)), float(1 / step)
    check_clip(int(repeats.sum()), info.width, info.height)
    clip = np.empty(
        (int(repeats.sum()), info.height, info.width, 3), np.uint8
    )  # of gigabytes, a copy would be too much
    ends, count = repeats.cumsum().tolist(), 0
    for _, render in read_frames(path, ending, (info.height, info.width)):
        if render and count < timeline.frames:
            clip[ends[count] - repeats[count] : ends[count]] = render()
        count += render is not None
    if count != timeline.frames:
        raise BadSample(f"{count} of its {timeline.frames} frames can be decoded")
    return Clip(clip, fps)


def read_at_rate(path: Path, size: tuple[int, int], fps: float | None) -> tuple[Frames, MediaInfo]:
    """All frames of a file, uint8 (T, H, W, 3), resized by their short side and center-cropped to `size` (H, W), and
    what the file holds.

    They are resampled to `fps`, unless the file has that rate within 2 %, constantly; None takes each frame once.
    Raises BadSample for a file that cannot be read, and for a clip that is too long.
    """
    ending = frames.ENDING if path.is_dir() else path.suffix.lower()
    info, rate = probe(path, ending), read_timeline(path, ending).rate
    timed = read_frames(path, ending, size)
    as_it_is = fps is None or info.frames == 1 or (rate is not None and abs(rate / fps - 1) < _SAME_RATE)
    check_clip(info.frames if as_it_is else math.ceil(info.seconds * fps), size[1], size[0], MAX_INPUT_PIXELS)
    rendered = (render() for _, render in timed if render) if as_it_is else resample(timed, fps)
    return np.stack(list(rendered)), info


def _read_folder(path: Path) -> Clip:
    def in_order(picture: Path) -> list[tuple[int, str]]:  # frame_9 before frame_10
        return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", picture.name)]

    files = sorted((file for file in path.iterdir() if file.suffix.lower() in PICTURES), key=in_order)
    if not files:
        raise PhenakiError(f"The folder '{path}' holds no pictures; a folder of frames has one picture per frame.")
    rendered = [read_video(picture).frames[0] for picture in files]
    for picture, frame in zip(files, rendered, strict=True):
        if frame.shape != rendered[0].shape:
            size, first = (f"{shape[1]}x{shape[0]}" for shape in (frame.shape, rendered[0].shape))
            raise PhenakiError(f"The frame '{picture}' is {size}, but the first one of its folder is {first}.")
    return Clip(np.stack(rendered), FPS)


def _decoder(ending: str) -> ModuleType:
    if ending == frames.ENDING:
        return frames
    return pictures if ending in PICTURES else streams


@contextmanager
def _opened(media: bytes | Path, ending: str) -> Iterator[BinaryIO | Path]:
    if ending == frames.ENDING and isinstance(media, Path):
        with reading_errors():
            yield media
        return
    with reading_errors(), io.BytesIO(media) if isinstance(media, bytes) else open_regular(media) as file:
        if not file.read(1):
            raise BadSample("it cannot be read: it is empty")
        file.seek(0)
        yield file
