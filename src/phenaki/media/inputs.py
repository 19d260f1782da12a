"""Whatever people hold a video or a mask in, as the tensors that models take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phenaki.core.arguments import check_tensor
from phenaki.core.config import quoted
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.files import is_path
from phenaki.media.convert import Frames, to_float
from phenaki.media.frames import is_clip
from phenaki.media.pictures import render
from phenaki.media.reader import read_at_rate, read_video
from phenaki.media.view import MAX_INPUT_PIXELS, check_clip

Size = tuple[int, int]  # height, width
VideoInput = Union[Tensor, np.ndarray, Image.Image, str, os.PathLike[str], Sequence[Any]]  # noqa: UP007, a value
"""What `as_video` takes."""

_LAYOUTS = "(H, W, 3), (T, H, W, 3), (B, T, H, W, 3), or with the 3 channels before H or T"


class _Part(NamedTuple):
    """float32 (B, 3, T, H, W), and what it stands for in a list."""

    video: Tensor
    kind: Literal["picture", "clip", "batch"]


def as_video(source: VideoInput, size: Size | None = None, fps: float | None = None) -> Tensor:
    """A video float32 (B, 3, T, H, W) in [0, 1] from any of these:

    - the path of a video, animation or picture, or of a folder of numbered pictures,
    - a PIL picture,
    - an array or a tensor, uint8 or float in [0, 1]: a picture (H, W, 3) or (3, H, W), a clip (T, H, W, 3),
      (T, 3, H, W) or (3, T, H, W), a batch (B, 3, T, H, W), (B, T, 3, H, W) or (B, T, H, W, 3),
    - a list of these: pictures are the frames of a clip, clips a batch.

    `size` (H, W) and `fps`: files and PIL pictures are resized by their short side and center-cropped, files also
    resampled in time; None leaves them, and arrays always stay as they are. Tensors stay on their device. Float values
    are not checked here. Raises PhenakiError for anything else, and for files that cannot be read.
    """
    return _convert(source, size, fps).video


def as_mask(source: VideoInput, size: Size | None = None) -> Tensor:
    """A mask as bool (T, H, W), True where it is white: from a path, a PIL picture, a list of these, or an array.

    Arrays are bool, uint8 or float, (H, W) or (T, H, W), with or without a channel axis at the end; 0 and 1, or 0 and
    255. `size` as in `as_video`. Raises PhenakiError for anything else.
    """
    if not isinstance(source, (np.ndarray, Tensor)):
        return _convert(source, size, None).video[0].mean(0) > 0.5
    if source.dtype.kind not in "biuf" if isinstance(source, np.ndarray) else source.is_complex():
        raise PhenakiError(f"a mask of type {source.dtype}: pass bool, uint8 or float")
    mask = _tensor(source)
    while mask.ndim > 3 and len(mask) == 1:
        mask = mask[0]
    if mask.ndim in (3, 4) and mask.shape[-1] in (1, 3):
        mask = mask.float().mean(-1)
    if mask.ndim not in (2, 3) or not mask.numel():
        raise PhenakiError(f"a mask of shape {tuple(source.shape)}: pass (H, W) or (T, H, W)")
    mask = mask[None] if mask.ndim == 2 else mask
    return mask if mask.dtype == torch.bool else mask > (0.5 if float(mask.max()) <= 1 else 127)


def _convert(source: Any, size: Size | None, fps: float | None) -> _Part:
    match source:
        case str() | os.PathLike():
            if not is_path(source):
                raise PhenakiError(f"a video of the path {quoted(source)}: no file can have that name")
            video = to_float(_read(Path(source), size, fps))
            return _Part(video, "picture" if video.shape[2] == 1 else "clip")
        case Image.Image():
            return _Part(to_float(render(source, size)[None].copy()), "picture")
        case np.ndarray() | Tensor():
            return _from_array(source)
        case list() | tuple():
            return _join([_convert(item, size, fps) for item in source])
    raise PhenakiError(
        f"a video of type {type(source).__name__}: pass a path, a PIL picture, an array, a tensor, or a list of these"
    )


def _from_array(array: np.ndarray | Tensor) -> _Part:
    if isinstance(array, np.ndarray) and array.dtype.kind not in "uf":
        raise PhenakiError(f"a video of type {array.dtype}: pass uint8 from 0 to 255, or float from 0 to 1")
    tensor = _tensor(array)
    if not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        raise PhenakiError(f"a video of type {tensor.dtype}: pass uint8 from 0 to 255, or float from 0 to 1")
    tensor = tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor.float()
    axis = _channel_axis(tuple(tensor.shape))
    match tensor.ndim:
        case 3:
            return _Part(tensor.movedim(axis, 0)[None, :, None], "picture")
        case 4:
            return _Part(tensor.movedim(axis, 0)[None], "clip")
        case _:
            return _Part(tensor.movedim(axis, 1), "batch")


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    """A copy of an array, which may be mirrored or read-only as torch's may not."""
    check_tensor("the video", array)
    return torch.from_numpy(array.copy()) if isinstance(array, np.ndarray) else array


def _channel_axis(shape: tuple[int, ...]) -> int:
    """Where the channels of an array lie: last, where PIL and numpy have them, or before H or T."""
    candidates = {3: [2, 0], 4: [3, 1, 0], 5: [4, 1, 2]}.get(len(shape), [])
    axes = [axis for axis in candidates if shape[axis] == 3]
    if not axes:
        rgb = "; [..., :3] leaves out the alpha channel" if shape[-1:] == (4,) else ""
        raise PhenakiError(f"a video of shape {shape}: pass {_LAYOUTS}{rgb}")
    if len(shape) == 4 and axes == [1, 0]:
        raise PhenakiError(f"a video of shape {shape} may be (T, 3, H, W) or (3, T, H, W): pass (1, 3, T, H, W)")
    return axes[0]


def _join(items: Sequence[_Part]) -> _Part:
    if not items:
        raise PhenakiError("an empty list of frames: pass at least one")
    pictures = all(item.kind == "picture" for item in items)
    shapes = [tuple(item.video.shape[3:] if pictures else item.video.shape[2:]) for item in items]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            what = "frame" if pictures else "clip"
            sizes = [f"{width}x{height}" for *_, height, width in (shape, shapes[0])]
            lengths = ["" if pictures else f" and {each[0]} frames" for each in (shape, shapes[0])]
            raise PhenakiError(
                f"{what} {number + 1} of the list has {sizes[0]} pixels{lengths[0]}, the first {sizes[1]}{lengths[1]}: "
                "bring them to one size"
            )
    videos = [item.video for item in items]
    return _Part(torch.cat(videos, 2), "clip") if pictures else _Part(torch.cat(videos), "batch")


def _read(path: Path, size: Size | None, fps: float | None) -> Frames:
    """All frames of a file or a folder, uint8 (T, H, W, 3)."""
    try:
        if size is None or not os.path.exists(path):
            clip = read_video(path).frames
            check_clip(len(clip), clip.shape[2], clip.shape[1], MAX_INPUT_PIXELS)
            return clip
        if path.is_dir() and not is_clip(file.name for file in path.iterdir()):
            return np.stack([render(Image.fromarray(frame), size) for frame in read_video(path).frames])
        return read_at_rate(path, size, fps)[0]
    except BadSample as error:
        raise PhenakiError(f"'{path}': {error}") from error
