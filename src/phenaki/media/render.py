"""Decoded frames of videos as pictures: upright, with square pixels, over black, scaled and cropped."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from phenaki.media.convert import Frames
from phenaki.media.hdr import HDR, to_sdr
from phenaki.media.view import Framing, over_black, reading_errors

# all of swscale's kernels but the fast one antialias; without the two flags white becomes 253
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def _unnamed_side_data(cls: type[Type], value: int) -> Type:
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


# FFmpeg has kinds of side data that PyAV does not name, such as Exif; without this, they hide all others of the frame
Type._missing_ = classmethod(_unnamed_side_data)  # type: ignore[assignment]


class Renderer:
    """Converts decoded frames to RGB uint8 (H, W, 3). Raises BadSample for one that cannot be converted."""

    def __init__(self, aspect: Fraction | int, framing: Framing) -> None:
        """aspect: width of a pixel divided by its height."""
        self.aspect, self.framing = aspect, framing
        self._convert, self._scale = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Frames:
        with reading_errors():
            orientation = Orientation.of(frame)
            width, height = self.framing.scaled(*display_size(frame, self.aspect))
            if orientation.transposed:
                width, height = height, width
            if any(component.is_alpha for component in frame.format.components):
                # before scaling, which would mix in what is hidden
                rgba = self._convert.reformat(frame, format="rgba", interpolation=_SCALING, threads=1).to_ndarray()
                frame = av.VideoFrame.from_ndarray(over_black(rgba), format="rgb24")
            transfer = HDR.get(frame.color_trc)
            pixels = self._scale.reformat(
                frame, width, height, "rgb48le" if transfer else "rgb24", interpolation=_SCALING, threads=1
            ).to_ndarray()
            return self.framing.crop(orientation.upright(to_sdr(pixels, transfer) if transfer else pixels))


class Orientation(NamedTuple):
    """How a decoded picture is turned upright: first transposed, then its rows and columns reversed."""

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        if "DISPLAYMATRIX" not in frame.side_data:
            return cls(False, False, False)
        # x' = a x + c y, y' = b x + d y
        a, b, _, c, d = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)[:5]
        if abs(b) > abs(a):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def upright(self, picture: Frames) -> Frames:
        picture = picture.swapaxes(0, 1) if self.transposed else picture
        return picture[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


def display_size(frame: VideoFrame, aspect: Fraction | int) -> tuple[int, int]:
    """Width and height of the upright picture with square pixels."""
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if Orientation.of(frame).transposed else (width, height)
