"""Reads videos, animations and pictures, in memory or on disk: frames by time stamp, scaled, cropped, RGB.

Only what lies between the key frame before a clip and its last frame is decoded, and only the clip's frames are
converted. What FFmpeg knows to be broken is a BadSample, never a black or a repeated frame.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.media import pictures, streams
from phenaki.media.convert import Frames
from phenaki.media.view import FPS, ClipView, Framing, MediaInfo, Timed, TimedClip, unreadable

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})  # read by Pillow, all others by FFmpeg
VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)


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
    with _opened(media) as file:
        return _decoder(ending).read_clip(file, view, rng)


def read_starts(media: bytes | Path, ending: str) -> NDArray[np.float64]:
    """When each of the N frames of a file starts, and the last one ends, (N + 1,), in seconds as the file counts them.

    Nothing is decoded. Raises BadSample for a file that cannot be read.
    """
    with _opened(media) as file:
        return _decoder(ending).read_starts(file)


def read_frames(media: bytes | Path, ending: str, size: tuple[int, int]) -> Iterator[Timed]:
    """All frames of a file in order, rendered on request as uint8 (H, W, 3) of `size`.

    Raises BadSample for a file that cannot be read to its end.
    """
    framing = Framing(ClipView(1, 1.0, size, random=False), np.random.default_rng(0))
    with _opened(media) as file:
        yield from _decoder(ending).read_frames(file, framing)


def probe(media: bytes | Path, ending: str) -> MediaInfo:
    """What a file holds, by its time stamps and first frame. Raises BadSample for one that cannot be read."""
    with _opened(media) as file:
        return _decoder(ending).probe(file)


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
        info = probe(path, ending)
        *timed, (end, _) = [
            (start, render and render()) for start, render in read_frames(path, ending, (info.height, info.width))
        ]
    except BadSample as error:
        raise PhenakiError(f"'{path}': {error}.") from error
    frames = np.stack([frame for _, frame in timed])
    if ending not in PICTURES or len(frames) == 1:
        return Clip(frames, info.fps or FPS)
    durations = np.diff([*(start for start, _ in timed), end])
    # GIF counts in hundredths of a second: 8 frames per second alternate between 120 and 130 ms, hence the mean
    step = durations[durations < 1.5 * durations.min()].mean()
    return Clip(frames.repeat(np.maximum(1, (durations / step).round().astype(int)), axis=0), float(1 / step))


def _read_folder(path: Path) -> Clip:
    def in_order(picture: Path) -> list[tuple[int, str]]:  # frame_9 before frame_10
        return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", picture.name)]

    files = sorted((file for file in path.iterdir() if file.suffix.lower() in PICTURES), key=in_order)
    if not files:
        raise PhenakiError(f"The folder '{path}' holds no pictures; a folder of frames has one picture per frame.")
    frames = [read_video(picture).frames[0] for picture in files]
    for picture, frame in zip(files, frames, strict=True):
        if frame.shape != frames[0].shape:
            size, first = (f"{shape[1]}x{shape[0]}" for shape in (frame.shape, frames[0].shape))
            raise PhenakiError(f"The frame '{picture}' is {size}, but the first one of its folder is {first}.")
    return Clip(np.stack(frames), FPS)


def _decoder(ending: str) -> ModuleType:
    return pictures if ending in PICTURES else streams


@contextmanager
def _opened(media: bytes | Path) -> Iterator[BinaryIO]:
    try:
        with io.BytesIO(media) if isinstance(media, bytes) else open(media, "rb") as file:
            yield file
    except (av.error.FFmpegError, OSError) as error:
        raise unreadable(error) from error
