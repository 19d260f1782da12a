"""Clips and files: reading, writing, and laying clips out for the eye.

A clip is uint8 (T, H, W, 3), RGB; a video, as models see it, float32 (B, 3, T, H, W) in [0, 1].
"""

from __future__ import annotations

import io
import math
import os
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic, write_folder_atomic

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream
    from torch import Tensor

Frames = NDArray[np.uint8]
Put = Callable[[Frames], None]
Size = tuple[int, int]  # height, width

FPS = 8.0  # of pictures that carry no rate of their own
PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})  # Pillow reads them, FFmpeg all the rest
_NUMBERED = re.compile(r"frame_(\d+)\.png")
_WHITE, _BLACK = 255, 0
_FURTHER_GLYPHS = "‘’“”⁄"  # that Pillow's font has beside those of ASCII


class Clip(NamedTuple):
    """frames uint8 (T, H, W, 3), and how many of them are shown in a second."""

    frames: Frames
    fps: float


# tensors and clips


def to_uint8(video: Tensor) -> Frames:
    """Video (B, 3, T, H, W) or (3, T, H, W), clamped to [0, 1] and rounded to uint8 (B, T, H, W, 3) or (T, H, W, 3)."""
    if video.ndim not in (4, 5) or video.shape[-4] != 3:
        raise PhenakiError(f"A video has the shape (B, 3, T, H, W) or (3, T, H, W), not {tuple(video.shape)}.")
    import torch  # here, so that processes which only read and write files start quickly

    levels = video.detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return levels.movedim(-4, -1).contiguous().numpy()


def to_float(clips: Frames | Tensor) -> Tensor:
    """Clips uint8 (T, H, W, 3) or (B, T, H, W, 3) as video float32 (B, 3, T, H, W) in [0, 1], on the clips' device."""
    import torch

    clips = torch.as_tensor(clips)
    if clips.ndim not in (4, 5) or clips.shape[-1] != 3 or clips.dtype != torch.uint8:
        raise PhenakiError(
            f"Clips are uint8 of the shape (T, H, W, 3) or (B, T, H, W, 3), not {clips.dtype} {tuple(clips.shape)}."
        )
    batch = clips if clips.ndim == 5 else clips[None]
    return batch.movedim(-1, 1).contiguous().float().div_(255)


# reading


def read_video(path: str | Path) -> Clip:
    """All frames of a video file, an animated or single picture, or a folder of pictures in the order of their numbers.

    A folder and a single picture are taken as 8 frames per second. Raises PhenakiError for what is missing or no video.
    """
    name, path = str(path), Path(path)
    if not os.path.exists(name):
        raise PhenakiError(f"There is no file or folder '{name}'.")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() in PICTURES:
        return _read_pictures(path)
    return _read_stream(path)


def _read_folder(path: Path) -> Clip:
    def in_order(picture: Path) -> list[tuple[int, str]]:  # frame_9 before frame_10
        return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", picture.name)]

    pictures = sorted((file for file in path.iterdir() if file.suffix.lower() in PICTURES), key=in_order)
    if not pictures:
        raise PhenakiError(f"The folder '{path}' holds no pictures; a folder of frames has one picture per frame.")
    frames = [_read_pictures(picture).frames[0] for picture in pictures]
    for picture, frame in zip(pictures, frames, strict=True):
        if frame.shape != frames[0].shape:
            size, first = (f"{shape[1]}x{shape[0]}" for shape in (frame.shape, frames[0].shape))
            raise PhenakiError(f"The frame '{picture}' is {size}, but the first one of its folder is {first}.")
    return Clip(np.stack(frames), FPS)


def _read_pictures(path: Path) -> Clip:
    """An animation's frames at an even rate: one that was shown n times as long as the shortest comes n times."""
    frames, durations = [], []
    try:
        with Image.open(path) as image:
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                frames.append(np.asarray(image.convert("RGB")))
                durations.append(image.info.get("duration", 0))  # milliseconds
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise PhenakiError(f"'{path}' cannot be read as a picture: {error}.") from error
    if len(frames) == 1 or min(durations) <= 0:
        return Clip(np.stack(frames), FPS)
    # GIF has only hundredths of a second: 8 frames per second are 120 and 130 ms in turn, so average the short ones
    short = [duration for duration in durations if duration < 1.5 * min(durations)]
    step = sum(short) / len(short)
    times = [max(1, round(duration / step)) for duration in durations]
    return Clip(np.stack(frames).repeat(times, axis=0), 1000 / step)


def _read_stream(path: Path) -> Clip:
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise PhenakiError(f"'{path}' is no video that can be read: {error.strerror}.") from error
    with container:
        if not container.streams.video:
            raise PhenakiError(f"'{path}' holds no picture stream.")
        stream = container.streams.video[0]
        frames = []
        try:
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
        except av.error.FFmpegError as error:
            raise PhenakiError(f"'{path}' is broken after {len(frames)} frames: {error.strerror}.") from error
        if not frames:
            raise PhenakiError(f"'{path}' has a picture stream without a picture.")
        return Clip(np.stack(frames), float(stream.average_rate or stream.guessed_rate or FPS))


def decoders() -> set[str]:
    """Names of the codecs that can be read here, such as h264."""
    known = set()
    for name in av.codecs_available:
        try:
            known.add(av.Codec(name, "r").canonical_name)
        except av.codec.codec.UnknownCodecError:  # it can only be written
            continue
    return known


# writing


class VideoWriter:
    """Takes the frames of one video as they are made; see `open_writer`."""

    def __init__(self, size: Size, put: Put) -> None:
        self.size = size
        self.frames = 0
        self._put = put

    def add(self, clip: Frames) -> None:
        """Append the frames of `clip`, uint8 (T, H, W, 3), of the writer's size."""
        if clip.ndim != 4 or clip.shape[1:] != (*self.size, 3) or clip.dtype != np.uint8:
            wanted = f"uint8 (T, {self.size[0]}, {self.size[1]}, 3)"
            raise PhenakiError(f"This video takes clips {wanted}, not {clip.dtype} {clip.shape}.")
        for frame in clip:
            self._put(np.ascontiguousarray(frame))
            self.frames += 1


@contextmanager
def open_writer(path: str | Path, fps: float, size: Size) -> Iterator[VideoWriter]:
    """Write a video of `size` (H, W) as its frames are made: `with open_writer(...) as writer: writer.add(clip)`.

    The ending decides: .mp4 (H.264; an odd size gets its last row or column twice), .gif, .webp (lossless), .png (a
    contact sheet), and a folder of numbered PNG files for a path that ends in "/" or has no ending. An mp4 and a folder
    need no more memory for more frames. What is written takes its name when the block ends, or leaves nothing if
    anything is raised. Raises PhenakiError for an unknown ending, a place that cannot be written, a full disk, and for
    no frames.
    """
    _check_rate(fps)
    with _writing_for(path)(Path(path), fps, size) as put:
        writer = VideoWriter(size, put)
        yield writer
        if not writer.frames:
            raise PhenakiError(f"There are no frames to write to '{path}'.")


def write_video(path: str | Path, clip: Frames, fps: float) -> None:
    """Write `clip`, uint8 (T, H, W, 3), at `fps` frames per second. Endings and errors as in `open_writer`."""
    with open_writer(path, fps, clip.shape[1:3]) as writer:
        writer.add(clip)


class Fragments:
    """Writes a video to a file or a pipe that grows, as an mp4 (H.264) that can be watched before it is whole.

    Each clip is a fragment by itself, made of its frames and their place alone: a file that is cut off between two and
    written on, with `frames` as they were then, ends as if nothing had happened. `whole_mp4` makes an ordinary file.
    """

    def __init__(self, file: IO[bytes], fps: float, frames: int = 0) -> None:
        _check_rate(fps)
        self.frames = frames
        self._file, self._fps = file, fps

    def add(self, clip: Frames) -> None:
        """Append the frames of `clip`, uint8 (T, H, W, 3), all clips of one size."""
        data, place = self._encoded(clip), 0
        wanted = (b"moof", b"mdat") if self.frames else (b"ftyp", b"moov", b"moof", b"mdat")
        while place < len(data):  # an mp4 is a row of boxes: length, kind, content
            end = place + int.from_bytes(data[place : place + 4], "big")
            if data[place + 4 : place + 8] in wanted:
                self._file.write(data[place:end])
            place = end
        self._file.flush()
        self.frames += len(clip)

    def _encoded(self, clip: Frames) -> bytes:
        rate = Fraction(self._fps).limit_denominator(1001)
        flags = "frag_keyframe+empty_moov+default_base_moof+frag_discont"
        options = {"movflags": flags, "avoid_negative_ts": "disabled", "fragment_index": str(self.frames + 1)}
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4", options=options) as container:
            stream = _add_stream(container, rate, clip.shape[1:3], bf="0")  # so that no frame waits for a later one
            for number, frame in enumerate(clip, start=self.frames):
                picture = _picture(frame)
                picture.pts, picture.time_base = number, 1 / rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return buffer.getvalue()


def whole_mp4(fragments: str | Path, path: str | Path) -> None:
    """Copy what `Fragments` wrote to an ordinary .mp4, frames as they are, index in front."""
    with (
        write_atomic(path) as file,
        av.open(str(fragments)) as given,
        av.open(file.name, "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def write_image(path: str | Path, picture: Frames) -> None:
    """Write one picture, uint8 (H, W, 3), as a PNG file. Raises PhenakiError where it cannot."""
    with write_atomic(path) as file:
        file.write(_encoded(Image.fromarray(picture), "PNG"))


def _check_rate(fps: float) -> None:
    if not 0.01 <= fps <= 1000:
        raise PhenakiError(f"A video needs a rate between 0.01 and 1000 frames per second, not {fps}.")


def _writing_for(path: str | Path) -> Callable[[Path, float, Size], AbstractContextManager[Put]]:
    ending = Path(path).suffix.lower()
    if str(path).endswith(("/", os.sep)) or not ending:
        return _folder
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if os.path.isdir(path):
        return _folder
    raise PhenakiError(
        f"'{path}' has the ending '{ending}', which cannot be written. There are "
        f"{', '.join(_ENDINGS)}, and for a folder of frames a path without an ending, or with a '/' at its end."
    )


@contextmanager
def _mp4(path: Path, fps: float, size: Size) -> Iterator[Put]:
    with (
        write_atomic(path) as file,
        # by name: to put the index in front (faststart), FFmpeg opens what it has written a second time
        av.open(file.name, "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = _add_stream(container, Fraction(fps).limit_denominator(1001), size)
        yield lambda frame: container.mux(stream.encode(_picture(frame)))
        container.mux(stream.encode())


def _add_stream(container: OutputContainer, rate: Fraction, size: Size, **options: str) -> VideoStream:
    # else x264's SIMD code makes other bytes of the same frames now and then
    same = {"crf": "18", "x264-params": "cpu-independent=1"}
    stream = container.add_stream("libx264", rate=rate, options=same | options)
    stream.pix_fmt = "yuv420p"
    stream.height, stream.width = (side + side % 2 for side in size)
    return stream


def _picture(frame: Frames) -> av.VideoFrame:
    """(H, W, 3), an odd side made even by its last row or column."""
    odd = (side % 2 for side in frame.shape[:2])
    even = np.pad(frame, (*((0, more) for more in odd), (0, 0)), mode="edge")
    return av.VideoFrame.from_ndarray(even, format="rgb24")


@contextmanager
def _animation(path: Path, fps: float, form: str, tick: int, **options: object) -> Iterator[Put]:
    """`tick`: the format counts time in so many milliseconds; frames last an even number of ticks on average."""
    if 1000 / fps < tick:
        raise PhenakiError(f"{form} shows at most {1000 // tick} frames per second, not {fps:g}.")
    images: list[Image.Image] = []
    with write_atomic(path) as file:
        yield lambda frame: images.append(Image.fromarray(frame))
        ends = [round(index * 1000 / fps / tick) * tick for index in range(len(images) + 1)]
        durations = np.diff(ends).tolist()
        if images:
            later = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
            file.write(_encoded(images[0], form, **later, **options))


def _gif(path: Path, fps: float, size: Size) -> AbstractContextManager[Put]:
    return _animation(path, fps, "GIF", tick=10)


def _webp(path: Path, fps: float, size: Size) -> AbstractContextManager[Put]:
    return _animation(path, fps, "WebP", tick=1, lossless=True)


@contextmanager
def _sheet(path: Path, fps: float, size: Size) -> Iterator[Put]:
    frames: list[Frames] = []
    with write_atomic(path) as file:
        yield frames.append
        if frames:
            file.write(_encoded(Image.fromarray(contact_sheet(np.stack(frames))), "PNG"))


@contextmanager
def _folder(path: Path, fps: float, size: Size) -> Iterator[Put]:
    old = list(path.iterdir()) if path.is_dir() else []
    if strangers := [file.name for file in old if not _NUMBERED.fullmatch(file.name)]:
        raise PhenakiError(
            f"The folder '{path}' holds other things than frames ('{strangers[0]}'); name a new or an empty one."
        )
    with write_folder_atomic(path) as new:
        names: set[str] = set()

        def put(frame: Frames) -> None:
            name = f"frame_{len(names) + 1:04d}.png"
            (new / name).write_bytes(_encoded(Image.fromarray(frame), "PNG"))
            names.add(name)

        yield put
    for file in old:  # the tail of a longer video that was there before
        if file.name not in names:
            file.unlink()


_ENDINGS = {".mp4": _mp4, ".gif": _gif, ".webp": _webp, ".png": _sheet}


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The file's bytes: Pillow writes past Python into a real file, and then a full disk has no error number."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# for the eye


def contact_sheet(
    clips: Frames | Sequence[Frames],
    columns: int = 8,
    frames: int | None = None,
    labels: Sequence[str] | None = None,
    gap: int = 2,
) -> Frames:
    """The frames of one clip (T, H, W, 3), or of several below one another, as one picture uint8 (H', W', 3).

    `columns` frames to a row; `frames` picks so many of each clip, evenly spaced from the first to the last; `labels`
    are printed above the clips, one each.
    """
    clips = [clips] if isinstance(clips, np.ndarray) else list(clips)
    if labels is not None and len(labels) != len(clips):
        raise PhenakiError(f"A contact sheet of {len(clips)} clips needs as many labels, not {len(labels)}.")
    blocks = []
    for clip in clips:
        if frames is not None and frames < len(clip):
            clip = clip[np.linspace(0, len(clip) - 1, frames).round().astype(int)]
        rows = [_beside(clip[start : start + columns], gap) for start in range(0, len(clip), columns)]
        blocks.append(_below(rows, gap))
    width = max(block.shape[1] for block in blocks)
    for index, label in enumerate(labels or []):
        blocks[index] = _below([_text(label, width), blocks[index]], gap)
    return _below(blocks, 4 * gap)


def side_by_side(clips: Sequence[Frames], gap: int = 2) -> Frames:
    """Clips of one length and height as one clip (T, H, W', 3), with `gap` white columns between them."""
    if len({clip.shape[:2] for clip in clips}) != 1:
        shapes = ", ".join(str(clip.shape) for clip in clips)
        raise PhenakiError(f"Clips side by side need one length and one height; these are {shapes or 'none'}.")
    return _beside(clips, gap)


def mosaic(clips: Sequence[Frames], columns: int = 4, gap: int = 2) -> Frames:
    """Clips of one length and size as one clip (T, H', W', 3), row by row, white where there is none."""
    blank = np.full_like(clips[0], _WHITE)
    filled = [*clips, *[blank] * (-len(clips) % columns)] if len(clips) > columns else clips
    rows = [side_by_side(filled[start : start + columns], gap) for start in range(0, len(filled), columns)]
    turned = [row.swapaxes(1, 2) for row in rows]
    return _beside(turned, gap).swapaxes(1, 2)


def upscale(clip: Frames, factor: int) -> Frames:
    """Each pixel of (..., H, W, 3) as a square of `factor` x `factor`: small videos are hard to see."""
    return clip.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _beside(pictures: Sequence[Frames], gap: int) -> Frames:
    """Join (..., H, W, 3) along the width, white between them."""
    space = np.full((*pictures[0].shape[:-2], gap, 3), _WHITE, np.uint8)
    return np.concatenate([part for picture in pictures for part in (space, picture)][1:], axis=-2)


def _below(pictures: Sequence[Frames], gap: int) -> Frames:
    """Join (H, W, 3) along the height, white between them and to the right of the narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, gap), (0, width - picture.shape[1]), (0, 0)), constant_values=_WHITE)
        for picture in pictures
    ]
    joined = np.concatenate(padded)
    return joined[: len(joined) - gap]


def _text(text: str, width: int) -> Frames:
    """`text` in black on white, wrapped to `width` pixels."""
    font = ImageFont.load_default(size=12)
    per_line = max(1, int(width / font.getlength("n")))
    lines = "\n".join(textwrap.wrap(_drawable(text), per_line))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    bottom = math.ceil(draw.multiline_textbbox((0, 0), lines or " ", font=font)[3])
    image = Image.new("RGB", (width, bottom + 2), (_WHITE,) * 3)
    ImageDraw.Draw(image).multiline_text((0, 0), lines, font=font, fill=(_BLACK,) * 3)
    return np.asarray(image)


def _drawable(text: str) -> str:
    """Of Pillow's own font, which has the letters of English: accents go, and what it lacks becomes a question mark."""
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)]
    return "".join(letter if letter.isascii() or letter in _FURTHER_GLYPHS else "?" for letter in letters)
