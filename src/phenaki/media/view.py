"""Which frames of a file a clip shows, selected by time stamp, and which crop of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.media.convert import Frames

FPS = 8.0  # of pictures that carry no rate of their own
TOLERANCE = 0.0005  # seconds: Matroska's time stamps are rounded to milliseconds
MAX_PICTURE_PIXELS = 100_000_000
MAX_VIDEO_PIXELS = 40_000_000  # of a frame, of which several are in memory; 8K has 33 million
MAX_ANIMATION_PIXELS = 1_000_000_000  # of all frames, of which each is decoded before any is used
MAX_CLIP_PIXELS = 250_000_000  # of all frames of a clip that is read into memory
MAX_RECORDING_PIXELS = 500_000_000  # of a recording that is encoded in one piece
MAX_INPUT_PIXELS = 2**26  # of a clip at a model's size, whose float32 copies take 12 bytes a pixel each
MAX_FRAMES = 200_000  # of a file at another rate: a few bytes can say that a frame lasts for days
_LONGEST_HOLD = 10.0  # seconds; a longer gap between frames is a jump of the time stamps
_LARGEST_LOSS = 16  # pixels of the scaled picture per pixel of the crop; beyond, the picture is a thin strip

Timed = tuple[float, Callable[[], Frames] | None]
"""When a frame starts, in seconds, and a call that renders it; after the last frame, its end and None."""


class StillPicture(BadSample):
    """An intact picture where more than one frame is requested."""


class TimedClip(NamedTuple):
    """Frames uint8 (T, H, W, 3), and the instant of each, float64 (T,), in seconds as the file counts them."""

    frames: Frames
    instants: NDArray[np.float64]


@configclass
class ClipView:
    """What a clip shows of a file: `frames` frames at `fps` per second, of `size` (H, W) pixels.

    random: a random start and a random crop, for training; otherwise the middle of both, for validation. flip: mirror
    half of the clips at random; for data whose captions do not mention left and right.
    """

    frames: int = bounded(at_least=1)
    fps: float = bounded(above=0)
    size: tuple[int, int] = bounded(at_least=1)
    random: bool
    flip: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != 2:
            raise PhenakiError(f"size {self.size} must be a height and a width")
        if self.flip and not self.random:
            raise PhenakiError("flip true needs random true: a fixed view is the same at each use")

    @property
    def seconds(self) -> float:
        """Time between the first frame and the last."""
        return (self.frames - 1) / self.fps


class MediaInfo(NamedTuple):
    """Frames of a file, their rate, their display size (upright, square pixels), and its duration.

    A still picture has 1 frame at rate 0 and lasts 0 seconds. fps: the mean, if the rate is not constant.
    """

    frames: int
    fps: float
    width: int
    height: int
    seconds: float


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turns whatever a decoder or a parser raises into a BadSample: it is a fault of the file."""
    try:
        yield
    except PhenakiError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise BadSample(f"it cannot be read: {reason}") from error


def check_pixels(width: int, height: int, most: int) -> None:
    """Raise BadSample for a picture or a frame of more than `most` pixels: a few broken bytes can promise gigabytes."""
    if width * height > most:
        raise BadSample(f"{width}x{height} pixels, more than the limit of {most:,}")


def check_clip(frames: int, width: int, height: int, most: int = MAX_CLIP_PIXELS) -> None:
    """Raise BadSample for a clip of more than `most` pixels in all."""
    if frames * width * height > most:
        raise BadSample(
            f"{frames:,} frames of {width}x{height}, more than the limit of {most:,} pixels in all: cut a piece out of "
            "it, or make it smaller"
        )


def check_frames(seconds: float, fps: float) -> None:
    """Raise BadSample for a video that has more than `MAX_FRAMES` frames at `fps`."""
    if seconds * fps > MAX_FRAMES:
        raise BadSample(
            f"{seconds:,.0f} s, which is more than the limit of {MAX_FRAMES:,} frames at {fps:g} per second: cut it "
            "into pieces"
        )


def clip_instants(first: float, end: float, view: ClipView, rng: np.random.Generator) -> NDArray[np.float64]:
    """The instants (T,) of the clip's frames, in seconds, in a file that lasts from `first` to `end`."""
    spare = end - first - view.seconds
    if spare <= 0:
        raise BadSample(
            f"{end - first:.2f} s of video; "
            f"{view.frames} frames at {view.fps:g} fps need more than {view.seconds:.2f} s"
        )
    offset = spare * (rng.random() if view.random else 0.5)
    begin = first + max(0, min(offset, spare - 2 * TOLERANCE))  # the stated end is rounded too
    return begin + np.arange(view.frames) / view.fps


def visible_at(timed: Iterable[tuple[float, Any]], instants: NDArray[np.float64]) -> Iterator[Any]:
    """The picture visible at each of the ascending instants, out of pictures with their start times.

    The last pair is the end time and None. Two pictures are in memory at a time.
    """
    number, end = 0, 0.0
    for (begin, picture), (end, _) in pairwise(timed):
        if end < begin:
            raise BadSample(f"its time stamps jump back from {begin:.2f} to {end:.2f} s")
        if not number and begin > instants[0] + TOLERANCE:
            raise BadSample(f"no key frame before {begin:.2f} s, so nothing is visible at {instants[0]:.2f} s")
        if len(instants) > 1 and end > max(begin + _LONGEST_HOLD, instants[0]):
            raise BadSample(f"its time stamps jump from {begin:.2f} to {end:.2f} s")
        while number < len(instants) and instants[number] + TOLERANCE < end:
            yield picture
            number += 1
        if number == len(instants):
            return
    raise BadSample(f"it ends at {end:.2f} s, before its stated end")


def visible_frames(starts: NDArray[np.float64], instants: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which frame of a file is visible at each instant, int (T,), where the frames start at `starts` (N,)."""
    return np.searchsorted(starts, instants + TOLERANCE, side="right") - 1


def clip_frames(timed: Iterable[tuple[float, Any]], instants: NDArray[np.float64]) -> list[Any]:
    """As `visible_at`, for a clip. Raises BadSample if all its frames are the same one."""
    picked = list(visible_at(timed, instants))
    if len(instants) > 1 and picked[0] is picked[-1]:
        raise BadSample(f"a single frame from {instants[0]:.2f} to {instants[-1]:.2f} s")
    return picked


class Framing:
    """Crop and mirroring, the same for all frames of a clip."""

    def __init__(self, view: ClipView, rng: np.random.Generator) -> None:
        self.height, self.width = view.size
        self.down, self.right = rng.random(2) if view.random else (0.5, 0.5)
        self.mirrored = view.flip and rng.random() < 0.5

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which a picture is scaled so that it just covers the crop."""
        scale = max(self.width / width, self.height / height)
        scaled = max(self.width, round(scale * width)), max(self.height, round(scale * height))
        if scaled[0] * scaled[1] > _LARGEST_LOSS * self.width * self.height:
            raise BadSample(
                f"{width}x{height} pixels; a crop of {self.width}x{self.height} would show less than "
                f"1/{_LARGEST_LOSS} of the picture"
            )
        return scaled

    def crop(self, picture: Frames) -> Frames:
        """The crop (H, W, 3) of a scaled picture."""
        top = int(self.down * (picture.shape[0] - self.height + 1))
        left = int(self.right * (picture.shape[1] - self.width + 1))
        crop = picture[top : top + self.height, left : left + self.width]
        return crop[:, ::-1] if self.mirrored else crop


def over_black(rgba: Frames) -> Frames:
    return (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] // 255).astype(np.uint8)
