"""Decoding pictures and animations, with Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from phenaki.core.errors import BadSample
from phenaki.media.convert import Frames
from phenaki.media.timing import Timeline, make_timeline
from phenaki.media.view import (
    MAX_ANIMATION_PIXELS,
    MAX_PICTURE_PIXELS,
    MAX_VIDEO_PIXELS,
    ClipView,
    Framing,
    MediaInfo,
    StillPicture,
    Timed,
    TimedClip,
    check_clip,
    check_pixels,
    clip_frames,
    clip_instants,
    over_black,
)

# names of Pillow. No other format is opened: for a PostScript file, Pillow would start Ghostscript
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_ANIMATIONS = frozenset({"AVIF", "GIF", "PNG", "WEBP"})

_TICKS = {"GIF": 0.01}  # seconds; of others, milliseconds
_SHORTEST, _DEFAULT = 0.01, 0.1  # seconds: browsers show a frame that is to last 10 ms or less for 100 ms
_ORIENTATION = 0x0112  # of Exif
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_clip(file: BinaryIO, view: ClipView, rng: np.random.Generator) -> TimedClip:
    with open_image(file) as image:
        if view.frames > 1 and len(_indices(image)) == 1:  # before decoding: a folder of videos may hold many
            raise StillPicture(f"a still picture, where {view.frames} frames are requested")
        starts = _timeline(image).starts
        instants = clip_instants(starts[0], starts[-1], view, rng)
        framing = Framing(view, rng)
        order = [*_indices(image), None]
        clip: list[Frames] = []
        for index, times in groupby(clip_frames(zip(starts, order, strict=True), instants)):
            _seek(image, index)
            clip += [_render_picture(image, framing)] * len(list(times))
        return TimedClip(np.stack(clip), instants)


def read_frames(file: BinaryIO, framing: Framing) -> Iterator[Timed]:
    with open_image(file) as image:
        *starts, end = _timeline(image).starts.tolist()
        for index, start in zip(_indices(image), starts, strict=True):
            _seek(image, index)
            picture = _render_picture(image, framing)
            yield start, lambda picture=picture: picture
        yield end, None


def read_timeline(file: BinaryIO) -> Timeline:
    with open_image(file) as image:
        return _timeline(image)


def probe(file: BinaryIO) -> MediaInfo:
    with open_image(file) as image:
        timeline = _timeline(image)
        width, height = _upright(image).size
        if timeline.frames == 1:
            return MediaInfo(1, 0.0, width, height, 0.0)
        return MediaInfo(timeline.frames, timeline.mean_rate, width, height, timeline.seconds)


def is_interlaced(file: BinaryIO) -> bool:
    return False


@contextmanager
def open_image(file: BinaryIO) -> Iterator[Image.Image]:
    """A picture or an animation of a known format and a bounded size. Raises BadSample for any other."""
    _check_not_heic(file)
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise BadSample(f"it cannot be read: pictures have the formats {', '.join(_FORMATS)}") from error
    with image:
        count = len(_indices(image))
        check_pixels(image.width, image.height, MAX_VIDEO_PIXELS if count > 1 else MAX_PICTURE_PIXELS)
        check_clip(count, image.width, image.height, MAX_ANIMATION_PIXELS)
        if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise BadSample(f"it has {image.n_frames} pages, where one picture is expected")
        yield image


def _check_not_heic(file: BinaryIO) -> None:
    """Raise BadSample for HEIC: the decoders there are for Python crash on broken files."""
    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] not in (b"avif", b"avis"):
        raise BadSample("it is HEIC or a video: convert a HEIC picture to JPEG (heif-convert, or sips -s format jpeg)")


def _indices(image: Image.Image) -> Sequence[int]:
    """Of the frames among the pictures of a file; further pictures in other formats are not frames."""
    count = getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1
    # an APNG's still picture, which is only for programs that cannot play it
    return range(1 if count > 1 and image.info.get("default_image") else 0, count)


def _seek(image: Image.Image, index: int) -> None:
    """Raises BadSample, before it is decoded, for a frame of a GIF that reaches beyond the others and enlarges it."""
    before = image.size
    image.seek(index)
    if image.size != before:
        sizes = "{}x{} pixels, after frames of {}x{}".format(*image.size, *before)
        raise BadSample(f"its frame {index} has {sizes}: it is broken")


def _timeline(image: Image.Image) -> Timeline:
    starts = [0.0]
    for index in _indices(image):
        _seek(image, index)
        image.load()  # only then does WebP know its duration
        duration = image.info.get("duration", 0) / 1000
        starts.append(starts[-1] + (duration if duration > _SHORTEST else _DEFAULT))
    image.seek(0)
    return make_timeline(np.array(starts), _TICKS.get(image.format, 0.001))


def render(image: Image.Image, size: tuple[int, int] | None = None) -> Frames:
    """A picture uint8 (H, W, 3), RGB, upright; `size`: resized by its short side and center-cropped to it."""
    picture = _upright(image)
    if picture is not image:
        picture.getexif().pop(_ORIENTATION)  # it was applied
    view = ClipView(1, 1.0, size or (picture.height, picture.width), random=False)
    return _render_picture(picture, Framing(view, np.random.default_rng(0)))


def _render_picture(image: Image.Image, framing: Framing) -> Frames:
    picture = _upright(image)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        raise BadSample("its pixels are fractions, whose range is unknown")
    if picture.has_transparency_data:  # before scaling, which would mix in what is hidden
        picture = Image.fromarray(over_black(np.asarray(picture.convert("RGBA"))))
    picture = picture.convert("RGB")
    return framing.crop(np.asarray(picture.resize(framing.scaled(*picture.size), Image.Resampling.BICUBIC)))


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Exif is often malformed, which says nothing about the picture
        orientation = None
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)
