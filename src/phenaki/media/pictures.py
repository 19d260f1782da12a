"""Decoding pictures and animations, with Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from phenaki.core.errors import BadSample
from phenaki.media.convert import Frames
from phenaki.media.view import (
    FPS,
    ClipView,
    Framing,
    MediaInfo,
    StillPicture,
    Timed,
    TimedClip,
    clip_frames,
    clip_instants,
    over_black,
    unreadable,
)

_ANIMATIONS = frozenset({"GIF", "PNG", "WEBP"})  # names of Pillow; further pictures in other formats are not frames

# what Pillow raises on broken pictures, besides OSError
_BROKEN = (EOFError, IndexError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_LARGEST_PICTURE, _LARGEST_ANIMATION = 100_000_000, 16_000_000  # pixels; a few broken bytes can promise gigabytes


def read_clip(file: BinaryIO, view: ClipView, rng: np.random.Generator) -> TimedClip:
    with _open_image(file) as image:
        if view.frames > 1 and _count(image) == 1:  # before decoding: a folder of videos may hold many
            raise StillPicture(f"a still picture, where {view.frames} frames are requested")
        starts = _start_times(image)
        instants = clip_instants(0.0, starts[-1], view, rng)
        framing = Framing(view, rng)
        order = [*range(len(starts) - 1), None]
        clip: list[Frames] = []
        for index, times in groupby(clip_frames(zip(starts, order, strict=True), instants)):
            image.seek(index)
            clip += [_render_picture(image, framing)] * len(list(times))
        return TimedClip(np.stack(clip), instants)


def read_frames(file: BinaryIO, framing: Framing) -> Iterator[Timed]:
    with _open_image(file) as image:
        starts = _start_times(image)
        for index, start in enumerate(starts[:-1]):
            image.seek(index)
            picture = _render_picture(image, framing)
            yield start, lambda picture=picture: picture
        yield starts[-1], None


def read_starts(file: BinaryIO) -> NDArray[np.float64]:
    with _open_image(file) as image:
        return np.array(_start_times(image))


def probe(file: BinaryIO) -> MediaInfo:
    with _open_image(file) as image:
        starts = _start_times(image)
        width, height = ImageOps.exif_transpose(image).size
        if len(starts) == 2:
            return MediaInfo(1, 0.0, width, height, 0.0)
        return MediaInfo(len(starts) - 1, (len(starts) - 1) / starts[-1], width, height, starts[-1])


@contextmanager
def _open_image(file: BinaryIO) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            largest = _LARGEST_ANIMATION if getattr(image, "is_animated", False) else _LARGEST_PICTURE
            if image.width * image.height > largest:
                raise BadSample(f"{image.width}x{image.height} pixels, more than the limit of {largest}")
            yield image
    except BadSample:
        raise
    except _BROKEN as error:
        raise unreadable(error) from error


def _count(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1


def _start_times(image: Image.Image) -> Sequence[float]:
    """When each picture starts and the last one ends, in seconds."""
    starts = [0.0]
    for index in range(_count(image)):
        image.seek(index)
        image.load()  # only then does WebP know its duration
        starts.append(starts[-1] + (image.info.get("duration", 0) / 1000 or 1 / FPS))
    image.seek(0)
    return starts


def render(image: Image.Image, size: tuple[int, int] | None = None) -> Frames:
    """A picture uint8 (H, W, 3), RGB, upright; `size`: resized by its short side and center-cropped to it."""
    picture = ImageOps.exif_transpose(image)
    view = ClipView(1, 1.0, size or (picture.height, picture.width), random=False)
    return _render_picture(picture, Framing(view, np.random.default_rng(0)))


def _render_picture(image: Image.Image, framing: Framing) -> Frames:
    picture = ImageOps.exif_transpose(image)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    transparent = picture.has_transparency_data
    picture = picture.convert("RGBA" if transparent else "RGB")
    pixels = np.asarray(picture.resize(framing.scaled(*picture.size), Image.Resampling.BICUBIC))
    return framing.crop(over_black(pixels) if transparent else pixels)
