"""Small media files, valid and broken, as bytes. A frame's grey level encodes its index: see `index_of`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

Size = tuple[int, int]  # height, width
Paint = Callable[[int, Size], np.ndarray]

LEVELS = 4  # grey levels between frames, so at most 64 frames
RATE = 30


def grey(index: int, size: Size) -> np.ndarray:
    """A uniform frame whose grey level encodes the index."""
    return np.full((*size, 3), LEVELS * index, np.uint8)


def index_of(frames: np.ndarray) -> list[int]:
    """The indices of frames (T, H, W, 3) that `grey` painted."""
    return [round(float(frame.mean()) / LEVELS) for frame in frames]


def corners(index: int, size: Size) -> np.ndarray:
    """Upper left red, upper right green, lower left blue, lower right white."""
    frame = np.full((*size, 3), 255, np.uint8)
    height, width = size[0] // 2, size[1] // 2
    frame[:height, :width], frame[:height, width:], frame[height:, :width] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return frame


def noise(index: int, size: Size) -> np.ndarray:
    """A moving texture, so that a frame has bytes to corrupt."""
    blocks = np.random.default_rng(0).integers(0, 256, (size[0] // 4 + 16, size[1] // 4 + 16, 3), dtype=np.uint8)
    texture = blocks.repeat(4, axis=0).repeat(4, axis=1)
    return texture[index % 60 :][: size[0], index % 50 : index % 50 + size[1]]


def even(frames: int, rate: float = RATE) -> list[float]:
    """Timestamps in seconds of frames at a constant rate."""
    return [index / rate for index in range(frames)]


def video(
    stamps: Sequence[float],
    form: str = "mp4",
    codec: str = "libx264",
    size: Size = (48, 64),
    pixels: str = "yuv420p",
    gop: int = 12,
    paint: Paint = grey,
    tick: Fraction = Fraction(1, 1000),
    turn: tuple[float, bool] = (0, False),
    aspect: Fraction = Fraction(1),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    seekable: bool = True,
) -> bytes:
    """A video with one frame per timestamp, painted by its index.

    turn: display rotation in degrees counter-clockwise, and whether players mirror the picture after it.
    seekable: False writes as to a pipe, so that a Matroska file has no duration and no index.
    """
    with tempfile.NamedTemporaryFile() as file:  # FFmpeg reopens it to move the index to the front
        pipe = io.BytesIO()
        target = file.name if seekable else _Pipe(pipe)
        with av.open(target, "w", format=form, container_options=container_options) as container:
            stream = container.add_stream(codec, options=_deterministic(codec, options or {}))
            stream.height, stream.width = size
            stream.pix_fmt, stream.gop_size = pixels, gop
            stream.codec_context.time_base, stream.time_base = tick, tick
            stream.codec_context.framerate = RATE
            stream.codec_context.sample_aspect_ratio = aspect
            if turn != (0, False):
                stream.set_display_rotation(turn[0], hflip=turn[1])
            for index, stamp in enumerate(stamps):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(paint(index, size)), format="rgb24")
                frame.pts, frame.time_base = round(stamp / tick), tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return file.read() if seekable else pipe.getvalue()


def _deterministic(codec: str, options: dict[str, str]) -> dict[str, str]:
    """Make x264 independent of buffer alignment, so that the same frames always give the same bytes."""
    if codec != "libx264":
        return options
    own = [options["x264-params"]] if "x264-params" in options else []
    return options | {"x264-params": ":".join([*own, "cpu-independent=1"])}


class _Pipe:
    def __init__(self, sink: io.BytesIO) -> None:
        self.write = sink.write


def animation(form: str, durations: Sequence[int], size: Size = (24, 32)) -> bytes:
    """A GIF or WebP; `durations` of its frames in milliseconds."""
    images = [Image.fromarray(grey(index, size)) for index in range(len(durations))]
    options = {"lossless": True, "minimize_size": False} if form == "WebP" else {}
    file = io.BytesIO()
    images[0].save(file, form, save_all=True, append_images=images[1:], duration=list(durations), **options)
    return file.getvalue()


def picture(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    """A still picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


# broken ones


def empty() -> bytes:
    return b""


def text() -> bytes:
    return b"These words are no video, whatever the file is called.\n" * 50


def playlist(address: str) -> bytes:
    """A list of other files, which FFmpeg would open."""
    return f"ffconcat version 1.0\nfile '{address}'\n".encode()


def sound(cover: bool = False) -> bytes:
    """An mp4 with audio only, or with cover art."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        if cover:
            pictures = container.add_stream("mjpeg", rate=1)
            pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuvj420p"
            pictures.disposition = Disposition.attached_pic
            container.mux(pictures.encode(av.VideoFrame(32, 32, "yuvj420p")))
            container.mux(pictures.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return file.getvalue()


def truncated(fraction: float = 0.5, frames: int = 90) -> bytes:
    """The first bytes of an mp4 whose index is at the front."""
    media = video(even(frames), paint=noise, container_options={"movflags": "+faststart"})
    return media[: int(fraction * len(media))]


def without_index(frames: int = 30) -> bytes:
    """An mp4 without the moov atom at its end."""
    media = video(even(frames), paint=noise)
    return media[: media.rindex(b"moov") - 4]


def unknown_codec() -> bytes:
    """An mp4 that names a codec that does not exist."""
    return video(even(12)).replace(b"avc1", b"zzzz")


def corrupted(media: bytes, packets: Iterable[int], how: str = "noise") -> bytes:
    """Overwrite some packets of the video stream, counted in decoding order, with noise or zeros."""
    broken = bytearray(media)
    rng = np.random.default_rng(0)
    with av.open(io.BytesIO(media)) as container:
        extents = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in packets:
        position, size = extents[number]
        start = position + size // 4
        broken[start : position + size] = (
            rng.bytes(position + size - start) if how == "noise" else bytes(position + size - start)
        )
    return bytes(broken)


def trimmed(media: bytes, seconds: float) -> bytes:
    """An mp4 whose edit list skips its start, as phones do when a video is trimmed."""
    changed = bytearray(media)

    def add(offset: int, amount: float) -> None:
        changed[offset : offset + 4] = (int.from_bytes(changed[offset : offset + 4], "big") + round(amount)).to_bytes(
            4, "big"
        )

    ticks = int.from_bytes(media[(header := media.index(b"mdhd")) + 16 : header + 20], "big")
    edit = media.index(b"elst") + 12  # its duration in milliseconds, then its start in ticks of the track
    add(edit, -1000 * seconds)
    add(edit + 4, ticks * seconds)
    return bytes(changed)


def jumping_forward(at: int, seconds: float, frames: int = 60, form: str = "mp4") -> bytes:
    """A gap of `seconds` before frame `at`."""
    return video([stamp + (seconds if index >= at else 0) for index, stamp in enumerate(even(frames))], form)


def jumping_back(first: int = 60, second: int = 30) -> bytes:
    """Two Matroska streams concatenated: the timestamps start over."""
    return b"".join(video(even(frames), "matroska", seekable=False) for frames in (first, second))
