"""What a clip shows of a medium: which frames, by their time stamps, and which part of the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.media.convert import Frames

FPS = 8.0  # of pictures that carry no rate of their own
TOLERANCE = 0.0005  # seconds: Matroska's time stamps are rounded to milliseconds
_LONGEST_HOLD = 10.0  # seconds; a longer wait for the next frame is a jump of the time stamps
_LARGEST_LOSS = 16  # times more pixels than the cut shows: beyond, a clip is a small part of a strip

Timed = tuple[float, Callable[[], Frames] | None]
"""The second at which a frame starts, and a call that renders it; at the end of the last frame, None."""


class StillPicture(BadSample):
    """A sound picture, where more than one frame is asked for."""


@dataclass(frozen=True)
class ClipView:
    """What a clip shows of a medium: `frames` pictures at `fps` per second, of `size` (H, W) pixels.

    random: from a random place in time and in the picture, for training; otherwise the middle of both, for validation.
    flip: mirror every second clip, by chance; for data whose captions know no left and right.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    random: bool
    flip: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise PhenakiError(f"frames {self.frames} must be 1 or more")
        if not 0 < self.fps < float("inf"):
            raise PhenakiError(f"fps {self.fps} must be a number above 0")
        if len(self.size) != 2 or min(self.size) < 1:
            raise PhenakiError(f"size {self.size} must be a height and a width of 1 or more pixels")
        if self.flip and not self.random:
            raise PhenakiError("flip true needs random true: a fixed view shows the same at each use")

    @property
    def seconds(self) -> float:
        """From the first frame's instant to the last one's."""
        return (self.frames - 1) / self.fps


class MediaInfo(NamedTuple):
    """How many frames a medium has, at which mean rate, of which size as shown (upright, square pixels), how long.

    A still picture is 1 frame at rate 0 and lasts 0 seconds.
    """

    frames: int
    fps: float
    width: int
    height: int
    seconds: float


def unreadable(error: Exception) -> BadSample:
    return BadSample(f"it cannot be read: {getattr(error, 'strerror', None) or error}")


def clip_instants(first: float, end: float, view: ClipView, rng: np.random.Generator) -> NDArray[np.float64]:
    """The seconds (T,) at which the clip looks at a medium that is shown from `first` until `end`."""
    spare = end - first - view.seconds
    if spare <= 0:
        raise BadSample(
            f"{end - first:.2f} s of video; "
            f"{view.frames} frames at {view.fps:g} fps need more than {view.seconds:.2f} s"
        )
    place = spare * (rng.random() if view.random else 0.5)
    begin = first + max(0, min(place, spare - 2 * TOLERANCE))  # a stated end is rounded as well
    return begin + np.arange(view.frames) / view.fps


def visible_at(timed: Iterable[tuple[float, Any]], instants: NDArray[np.float64]) -> Iterator[Any]:
    """What is shown at each of the ascending instants, of pictures that come with the second of their beginning.

    The last pair holds the end instead of a beginning, and None. Two pictures are held at a time.
    """
    number, end = 0, 0.0
    for (begin, picture), (end, _) in pairwise(timed):
        if end < begin:
            raise BadSample(f"its time stamps jump back from {begin:.2f} to {end:.2f} s")
        if not number and begin > instants[0] + TOLERANCE:
            raise BadSample(f"no key frame before {begin:.2f} s, so nothing can be shown at {instants[0]:.2f} s")
        if len(instants) > 1 and end > max(begin + _LONGEST_HOLD, instants[0]):
            raise BadSample(f"its time stamps jump from {begin:.2f} to {end:.2f} s")
        while number < len(instants) and instants[number] + TOLERANCE < end:
            yield picture
            number += 1
        if number == len(instants):
            return
    raise BadSample(f"it ends at {end:.2f} s, earlier than it states")


def clip_frames(timed: Iterable[tuple[float, Any]], instants: NDArray[np.float64]) -> list[Any]:
    """As `visible_at`, of a clip, which moves."""
    picked = list(visible_at(timed, instants))
    if len(instants) > 1 and picked[0] is picked[-1]:
        raise BadSample(f"one and the same frame from {instants[0]:.2f} to {instants[-1]:.2f} s")
    return picked


class Framing:
    """Where a clip's pictures are cut and whether they are mirrored; the same for all of them."""

    def __init__(self, view: ClipView, rng: np.random.Generator) -> None:
        self.height, self.width = view.size
        self.down, self.right = rng.random(2) if view.random else (0.5, 0.5)
        self.mirrored = view.flip and rng.random() < 0.5

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of a picture that just covers the cut."""
        scale = max(self.width / width, self.height / height)
        scaled = max(self.width, round(scale * width)), max(self.height, round(scale * height))
        if scaled[0] * scaled[1] > _LARGEST_LOSS * self.width * self.height:
            raise BadSample(
                f"{width}x{height} pixels; a cut of {self.width}x{self.height} would show less than "
                f"1/{_LARGEST_LOSS} of the picture"
            )
        return scaled

    def cut(self, picture: Frames) -> Frames:
        """(H, W, 3) of a scaled picture."""
        top = int(self.down * (picture.shape[0] - self.height + 1))
        left = int(self.right * (picture.shape[1] - self.width + 1))
        cut = picture[top : top + self.height, left : left + self.width]
        return cut[:, ::-1] if self.mirrored else cut


def over_black(rgba: Frames) -> Frames:
    return (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] // 255).astype(np.uint8)
