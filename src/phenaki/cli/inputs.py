"""Pictures, clips and masks as inputs of commands, fitted to the model; changes are reported."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phenaki.core.errors import PhenakiError
from phenaki.core.reading import open_regular

if TYPE_CHECKING:
    from torch import Tensor

    from phenaki.media.convert import Frames
    from phenaki.media.view import MediaInfo

Size = tuple[int, int]  # height, width


def read_size(text: str) -> Size:
    """'96x64' -> height 64, width 96."""
    if not (found := re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.lower())):
        raise PhenakiError(f"size '{text}': give width x height in pixels, such as 96x64")
    return int(found[2]), int(found[1])


def check_file(path: Path) -> None:
    """Raise PhenakiError for a file that is missing or cannot be opened, which is quicker than loading a model."""
    try:
        open_regular(path).close()
    except OSError as error:
        raise PhenakiError(f"'{path}': it cannot be read: {error.strerror or error}") from error


def read_clip(path: Path, size: Size, fps: float) -> Tensor:
    """A picture or a clip as video float32 (1, 3, T, H, W) in [0, 1], at the model's frame rate and of `size`.

    Frames are resized by their short side and center-cropped. Raises PhenakiError for files that cannot be read.
    """
    from phenaki.media.convert import to_float

    clip, info = _read(path, size, fps)
    fitted = []
    if (info.height, info.width) != size:
        crop = " and cropped" if info.width * size[0] != info.height * size[1] else ""
        fitted.append(f"{info.width}x{info.height} pixels, resized{crop} to {size[1]}x{size[0]}")
    if len(clip) != info.frames or (info.frames > 1 and abs(info.fps / fps - 1) > 0.02):
        fitted.append(f"{info.frames} frames at {info.fps:g} fps, resampled to {len(clip)} at {fps:g} fps")
    if fitted:
        print(f"'{path}': {'; '.join(fitted)}", file=sys.stderr)
    return to_float(clip)


def read_picture(path: Path, size: Size, fps: float) -> Tensor:
    """As `read_clip`, T = 1. Raises PhenakiError for a clip of several frames."""
    picture = read_clip(path, size, fps)
    if picture.shape[2] > 1:
        raise PhenakiError(f"'{path}' has {picture.shape[2]} frames, not one: use `phenaki extend` to continue a clip")
    return picture


def read_mask(path: Path, video: Path, size: Size, fps: float) -> Tensor:
    """A mask as bool (T, H, W), True where it is white, resized like its video, which must have the same size."""
    import torch

    clip, mask = _read(path, size, fps)
    info = _read(video, size, fps)[1]
    if (mask.width, mask.height) != (info.width, info.height):
        raise PhenakiError(
            f"the mask '{path}' has {mask.width}x{mask.height} pixels, but '{video}' has "
            f"{info.width}x{info.height}: make it the same size"
        )
    white = torch.from_numpy(clip.mean(-1) > 127)
    if not white.any():
        raise PhenakiError(f"the mask '{path}' is empty: paint white what is to be regenerated")
    return white


def _read(path: Path, size: Size, fps: float) -> tuple[Frames, MediaInfo]:
    from phenaki.core.errors import BadSample
    from phenaki.media.reader import read_at_rate

    try:
        return read_at_rate(path, size, fps)
    except BadSample as error:
        raise PhenakiError(f"'{path}': {error}") from error
