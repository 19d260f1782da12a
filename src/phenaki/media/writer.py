"""Writes videos, animations and pictures."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO

import av
import av.filter
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from PIL import Image

from phenaki.core.arguments import check_types
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.files import check_folder, write_atomic, write_folder_atomic
from phenaki.core.reading import open_regular
from phenaki.media.convert import Frames
from phenaki.media.metadata import Metadata, picture_options, to_comment
from phenaki.media.montage import contact_sheet
from phenaki.media.view import MAX_CLIP_PIXELS

Put = Callable[[Frames], None]
Size = tuple[int, int]  # height, width

_SMPTE170M = 6  # AVCOL_SPC_SMPTE170M, the matrix of BT.601
_NUMBERED = re.compile(r"frame_(\d+)\.png")


class VideoWriter:
    """Receives the frames of a video as they are generated; see `open_writer`."""

    def __init__(self, size: Size, put: Put, max_frames: float = math.inf) -> None:
        self.size = size
        self.frames = 0
        self._put, self._max_frames = put, max_frames

    def add(self, clip: Frames) -> None:
        """Append the frames of `clip`, uint8 (T, H, W, 3), of the writer's size."""
        if clip.ndim != 4 or clip.shape[1:] != (*self.size, 3) or clip.dtype != np.uint8:
            wanted = f"uint8 (T, {self.size[0]}, {self.size[1]}, 3)"
            raise PhenakiError(f"This video takes clips {wanted}, not {clip.dtype} {clip.shape}.")
        if self.frames + len(clip) > self._max_frames:
            raise PhenakiError(
                f"More than {self._max_frames:,} frames of {self.size[1]}x{self.size[0]} do not fit into memory, in "
                "which a .gif, .webp or .png is made: write an .mp4, or a folder."
            )
        for frame in clip:
            self._put(np.ascontiguousarray(frame))
            self.frames += 1


@contextmanager
def open_writer(path: str | Path, fps: float, size: Size, metadata: Metadata | None = None) -> Iterator[VideoWriter]:
    """Write a video of `size` (H, W) as its frames arrive: `with open_writer(...) as writer: writer.add(clip)`.

    The ending selects the format: .mp4 (H.264; an odd side repeats its last row or column), .gif, .webp (lossless),
    .png (a contact sheet), or a folder of numbered PNG files for a path that ends in "/" or has no ending. Memory does
    not grow with the length of an mp4 or a folder. The file gets its name when the block ends; if anything is raised,
    nothing is left. `metadata` says how the video was made, for `read_metadata`. Raises PhenakiError for an unknown
    ending, an unwritable path, a full disk, or no frames.
    """
    _check_rate(fps)
    with _writing_for(path)(Path(path), fps, size, metadata) as put:
        in_memory = Path(path).suffix.lower() in _IN_MEMORY
        writer = VideoWriter(size, put, MAX_CLIP_PIXELS // (size[0] * size[1]) if in_memory else math.inf)
        yield writer
        if not writer.frames:
            raise PhenakiError(f"There are no frames to write to '{path}'.")


def check_path(path: str | Path) -> None:
    """Raise PhenakiError for a path that no video can be written to: an unknown ending, or a missing folder."""
    _writing_for(path)
    check_folder(path)


@check_types
def write_video(path: str | Path, clip: Frames, fps: float, metadata: Metadata | None = None) -> None:
    """Write `clip`, uint8 (T, H, W, 3), at `fps` frames per second. Endings and errors as in `open_writer`."""
    _check_frames(clip, "a clip", ("T", "H", "W", 3))
    _check_rate(fps)
    with open_writer(path, float(fps), clip.shape[1:3], metadata) as writer:
        writer.add(clip)


class Fragments:
    """Appends clips to a file or a pipe as a fragmented mp4 (H.264), which plays while it is being written.

    A fragment depends only on its frames and their index, so writing can resume after any clip, given the number of
    `frames` written before, with the same result. `remux_mp4` turns the file into an ordinary one.
    """

    def __init__(self, file: IO[bytes], fps: float, frames: int = 0, metadata: Metadata | None = None) -> None:
        _check_rate(fps)
        self.frames = frames
        self._file, self._fps, self._metadata = file, fps, metadata

    def add(self, clip: Frames) -> None:
        """Append the frames of `clip`, uint8 (T, H, W, 3), all clips of one size."""
        data, start = self._encoded(clip), 0
        wanted = (b"moof", b"mdat") if self.frames else (b"ftyp", b"moov", b"moof", b"mdat")
        while start < len(data):  # an mp4 is a sequence of boxes: length, type, content
            end = start + int.from_bytes(data[start : start + 4], "big")
            if data[start + 4 : start + 8] in wanted:
                self._file.write(data[start:end])
            start = end
        self._file.flush()
        self.frames += len(clip)

    def _encoded(self, clip: Frames) -> bytes:
        flags = "frag_keyframe+empty_moov+default_base_moof+frag_discont"
        options = {"movflags": flags, "avoid_negative_ts": "disabled", "fragment_index": str(self.frames + 1)}
        buffer, size = io.BytesIO(), clip.shape[1:3]
        # bf: no frame needs a later one
        with _h264(buffer, _rate(self._fps), size, options, self.frames, self._metadata, bf="0") as put:
            for frame in clip:
                put(frame)
        return buffer.getvalue()


def remux_mp4(fragments: str | Path, path: str | Path, metadata: Metadata | None = None) -> None:
    """Copy what `Fragments` wrote to an ordinary .mp4 with its index in front, without encoding again.

    `metadata`: None keeps that of the fragments.
    """
    with (
        write_atomic(path) as file,
        open_regular(fragments) as written,
        av.open(written) as source,
        av.open(_file_name(file), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        _set_comment(container, source.metadata.get("comment") if metadata is None else to_comment(metadata))
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def encode_mp4(frames: Iterable[Frames], fps: Fraction, size: Size, crf: int, g: int) -> bytes:
    """An mp4 in memory, its index at the end. crf: x264's quality; g: frames from one key frame to the next.

    Raises BadSample where FFmpeg fails.
    """
    buffer = io.BytesIO()
    try:
        # one thread: callers run one process per core, and threads change the bytes
        with _h264(buffer, fps, size, threads="1", crf=str(crf), g=str(g)) as put:
            for frame in frames:
                put(frame)
    except av.error.FFmpegError as error:
        raise BadSample(f"it cannot be encoded: {error.strerror}") from error
    return buffer.getvalue()


@check_types
def write_image(path: str | Path, picture: Frames, metadata: Metadata | None = None) -> None:
    """Write one picture, uint8 (H, W, 3), as a PNG file. Raises PhenakiError if that fails."""
    _check_frames(picture, "a picture", ("H", "W", 3))
    with write_atomic(path) as file:
        file.write(_to_bytes(Image.fromarray(picture), "PNG", metadata))


def _check_frames(frames: Frames, what: str, shape: tuple[str | int, ...]) -> None:
    """Raise PhenakiError unless frames are uint8 of this shape, and there is a pixel."""
    if frames.dtype != np.uint8 or frames.ndim != len(shape) or frames.shape[-1] != 3 or not frames.size:
        wanted = f"({', '.join(map(str, shape))})"
        raise PhenakiError(f"{what} of shape {frames.shape} and type {frames.dtype}: pass uint8 {wanted}")


def _check_rate(fps: float) -> None:
    if not 0.01 <= fps <= 1000:
        raise PhenakiError(f"A video needs a rate between 0.01 and 1000 frames per second, not {fps}.")


def _writing_for(path: str | Path) -> Callable[[Path, float, Size, Metadata | None], AbstractContextManager[Put]]:
    ending = Path(path).suffix.lower()
    if str(path).endswith(("/", os.sep)) or not ending:
        return _folder
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if os.path.isdir(path):
        return _folder
    raise PhenakiError(
        f"'{path}' has the ending '{ending}', which cannot be written. There are "
        f"{', '.join(_ENDINGS)}, and for a folder of frames a '/' at the end."
    )


@contextmanager
def _mp4(path: Path, fps: float, size: Size, metadata: Metadata | None) -> Iterator[Put]:
    options = {"movflags": "+faststart"}
    # by name: to put the index in front (faststart), FFmpeg opens what it has written a second time
    with write_atomic(path) as file, _h264(_file_name(file), _rate(fps), size, options, metadata=metadata) as put:
        yield put


def _file_name(file: IO[bytes]) -> str:
    """As FFmpeg takes it: in a relative name, what stands before a colon would be a protocol."""
    return os.path.abspath(file.name)


def _set_comment(container: OutputContainer, comment: str | None) -> None:
    if comment:
        container.metadata["comment"] = comment


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


@contextmanager
def _h264(
    file: str | io.BytesIO,
    rate: Fraction,
    size: Size,
    container_options: dict[str, str] | None = None,
    first: int = 0,
    metadata: Metadata | None = None,
    **options: str,
) -> Iterator[Put]:
    """Encode frames (H, W, 3) as an mp4, the first with number `first`; an odd side repeats its last row or column."""
    even = tuple(side + side % 2 for side in size)
    with av.open(file, "w", format="mp4", options=container_options) as container:
        _set_comment(container, None if metadata is None else to_comment(metadata))
        # without cpu-independent, x264's SIMD code now and then makes other bytes of the same frames
        same = {"crf": "18", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=rate, options=same | options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = even
        context = stream.codec_context
        context.colorspace, context.color_range = _SMPTE170M, ColorRange.MPEG  # else players guess
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.IEC61966_2_1
        graph = av.filter.Graph()
        source = graph.add_buffer(width=even[1], height=even[0], format="rgb24", time_base=1 / rate)
        # players and our reader take chroma to lie at the left of two pixels; the encoder's own conversion centers it
        scale = graph.add(
            "scale",
            "out_color_matrix=smpte170m:out_range=tv:out_chroma_loc=left:flags=bicubic+accurate_rnd+full_chroma_inp",
        )
        graph.link_nodes(source, scale, graph.add("format", "yuv420p"), graph.add("buffersink")).configure()
        indices = count(first)

        def put(frame: Frames) -> None:
            padding = ((0, more - side) for side, more in zip(frame.shape, (*even, 3), strict=True))
            picture = av.VideoFrame.from_ndarray(np.pad(frame, tuple(padding), mode="edge"), format="rgb24")
            picture.pts, picture.time_base = next(indices), 1 / rate
            graph.push(picture)
            container.mux(stream.encode(graph.pull()))

        yield put
        container.mux(stream.encode())


@contextmanager
def _animation(
    path: Path, fps: float, size: Size, metadata: Metadata | None, form: str, tick: int, **options: object
) -> Iterator[Put]:
    """`tick`: the format's time unit in milliseconds, to which the end of each frame is rounded."""
    if 1000 / fps < tick:
        raise PhenakiError(f"{form} shows at most {1000 // tick} frames per second, not {fps:g}.")
    if 1000 // (10 + tick) < fps:
        raise PhenakiError(
            f"Players show frames of 10 ms for 100 ms: {form} takes at most {1000 // (10 + tick)} frames per second, "
            f"not {fps:g}."
        )
    images: list[Image.Image] = []
    with write_atomic(path) as file:
        yield lambda frame: images.append(Image.fromarray(frame))
        ends = [round(index * 1000 / fps / tick) * tick for index in range(len(images) + 1)]
        durations = np.diff(ends).tolist()
        if images:
            later = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
            file.write(_to_bytes(images[0], form, metadata, **later, **options))


@contextmanager
def _sheet(path: Path, fps: float, size: Size, metadata: Metadata | None) -> Iterator[Put]:
    frames: list[Frames] = []
    with write_atomic(path) as file:
        yield frames.append
        if frames:
            file.write(_to_bytes(Image.fromarray(contact_sheet(np.stack(frames))), "PNG", metadata))


@contextmanager
def _folder(path: Path, fps: float, size: Size, metadata: Metadata | None) -> Iterator[Put]:
    old = list(path.iterdir()) if os.path.isdir(path) else []
    if strangers := [file.name for file in old if not _NUMBERED.fullmatch(file.name)]:
        raise PhenakiError(
            f"The folder '{path}' holds other things than frames ('{strangers[0]}'); name a new or an empty one."
        )
    with write_folder_atomic(path) as new:
        names: set[str] = set()

        def put(frame: Frames) -> None:
            name = f"frame_{len(names) + 1:04d}.png"
            (new / name).write_bytes(_to_bytes(Image.fromarray(frame), "PNG", metadata))
            names.add(name)

        yield put
    for file in old:  # the tail of a longer video that was there before
        if file.name not in names:
            file.unlink()


_ENDINGS = {
    ".mp4": _mp4,
    ".gif": partial(_animation, form="GIF", tick=10),
    ".webp": partial(_animation, form="WebP", tick=1, lossless=True),
    ".png": _sheet,
}


_IN_MEMORY = (".gif", ".webp", ".png")  # made when all frames are there


def _to_bytes(image: Image.Image, form: str, metadata: Metadata | None = None, **options: object) -> bytes:
    """The file's bytes: Pillow writes past Python into a real file, and then a full disk has no error number."""
    buffer = io.BytesIO()
    image.save(buffer, form, **picture_options(metadata, form), **options)
    return buffer.getvalue()
