"""From an encoded media file, in memory or on a disk, to a clip: frames by their time stamps, scaled, cut, as RGB.

Only what lies between the key frame before the clip and its last frame is decoded, and only frames of the clip are
converted. What FFmpeg knows to be broken is a BadSample and never a black or a repeated frame.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, dropwhile, groupby, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.media.video import FPS, PICTURES, Frames

VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)

_ANIMATIONS = frozenset({"GIF", "PNG", "WEBP"})  # as Pillow names them; further pictures in others are no time

# what Pillow raises at broken pictures, besides OSError
_BROKEN = (EOFError, IndexError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
TOLERANCE = 0.0005  # seconds: Matroska's time stamps are rounded to milliseconds
_LONGEST_HOLD = 10.0  # seconds; a longer wait for the next frame is a jump of the time stamps
_LARGEST_LOSS = 16  # times more pixels than the cut shows: beyond, a clip is a small part of a strip
_LARGEST_PICTURE, _LARGEST_ANIMATION = 100_000_000, 16_000_000  # pixels; a few broken bytes can promise gigabytes
# scaling down averages with each of swscale's kernels but the fast one; without the two flags white becomes 253
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


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


def read_clip(media: bytes | Path, ending: str, view: ClipView, rng: np.random.Generator) -> Frames:
    """The clip uint8 (T, H, W, 3), RGB, that `view` shows of a video, an animation or a picture.

    media: the bytes of the file or its path; ending: in lower case with its dot, such as ".mp4". Each frame is the one
    that is shown at its instant, the last whose time stamp is not after it. The short side is scaled to the size, with
    antialiasing, after the picture was turned upright and its pixels made square; transparency is black. Raises
    BadSample for a medium that is broken there, too short, or too long and thin, and StillPicture for a still one.
    """
    read = _read_pictures if ending in PICTURES else _read_stream
    with _opened(media) as file:
        return read(file, view, rng)


Timed = tuple[float, Callable[[], Frames] | None]
"""The second at which a frame begins, and a call that renders it; at the end of the last frame, None."""


def read_frames(media: bytes | Path, ending: str, size: tuple[int, int]) -> Iterator[Timed]:
    """All frames of a medium in their order, rendered as uint8 (H, W, 3) of `size` when asked for.

    Raises BadSample for a medium that cannot be read to its end.
    """
    framing = _Framing(ClipView(1, 1.0, size, random=False), np.random.default_rng(0))
    with _opened(media) as file:
        if ending in PICTURES:
            with _image(file) as image:
                begins = _begins(image)
                for index, begin in enumerate(begins[:-1]):
                    image.seek(index)
                    picture = _render_picture(image, framing)
                    yield begin, lambda picture=picture: picture
                yield begins[-1], None
            return
        with _container(file) as container:
            stream = _video_stream(container)
            render = _Renderer(stream, framing)
            for begin, frame in _decode(container, stream):
                yield begin, partial(render, frame) if frame else None


def probe(media: bytes | Path, ending: str) -> MediaInfo:
    """What is in a medium, by its time stamps and its first frame. Raises BadSample for one that cannot be read."""
    with _opened(media) as file:
        return (_probe_pictures if ending in PICTURES else _probe_stream)(file)


@contextmanager
def _opened(media: bytes | Path) -> Iterator[BinaryIO]:
    try:
        with io.BytesIO(media) if isinstance(media, bytes) else open(media, "rb") as file:
            yield file
    except (av.error.FFmpegError, OSError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> BadSample:
    return BadSample(f"it cannot be read: {getattr(error, 'strerror', None) or error}")


# time


def _instants(first: float, end: float, view: ClipView, rng: np.random.Generator) -> NDArray[np.float64]:
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


def shown_at(timed: Iterable[tuple[float, Any]], instants: NDArray[np.float64]) -> Iterator[Any]:
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


def _shown(timed: Iterable[tuple[float, Any]], instants: NDArray[np.float64]) -> list[Any]:
    """As `shown_at`, of a clip, which moves."""
    picked = list(shown_at(timed, instants))
    if len(instants) > 1 and picked[0] is picked[-1]:
        raise BadSample(f"one and the same frame from {instants[0]:.2f} to {instants[-1]:.2f} s")
    return picked


# space


class _Framing:
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


def _over_black(rgba: Frames) -> Frames:
    return (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] // 255).astype(np.uint8)


# pictures and animations


def _read_pictures(file: BinaryIO, view: ClipView, rng: np.random.Generator) -> Frames:
    with _image(file) as image:
        if view.frames > 1 and _count(image) == 1:  # before anything is decoded: there may be many beside videos
            raise StillPicture(f"a still picture, where {view.frames} frames are asked for")
        begins = _begins(image)
        instants = _instants(0.0, begins[-1], view, rng)
        framing = _Framing(view, rng)
        order = [*range(len(begins) - 1), None]
        clip: list[Frames] = []
        for index, times in groupby(_shown(zip(begins, order, strict=True), instants)):
            image.seek(index)
            clip += [_render_picture(image, framing)] * len(list(times))
        return np.stack(clip)


def _probe_pictures(file: BinaryIO) -> MediaInfo:
    with _image(file) as image:
        begins = _begins(image)
        width, height = ImageOps.exif_transpose(image).size
        if len(begins) == 2:
            return MediaInfo(1, 0.0, width, height, 0.0)
        return MediaInfo(len(begins) - 1, (len(begins) - 1) / begins[-1], width, height, begins[-1])


@contextmanager
def _image(file: BinaryIO) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            largest = _LARGEST_ANIMATION if getattr(image, "is_animated", False) else _LARGEST_PICTURE
            if image.width * image.height > largest:
                raise BadSample(f"{image.width}x{image.height} pixels are more than {largest}")
            yield image
    except BadSample:
        raise
    except _BROKEN as error:
        raise _unreadable(error) from error


def _count(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1


def _begins(image: Image.Image) -> Sequence[float]:
    """The second at which each picture begins, and the one at which the last ends."""
    begins = [0.0]
    for index in range(_count(image)):
        image.seek(index)
        image.load()  # WebP knows a picture's duration only then
        begins.append(begins[-1] + (image.info.get("duration", 0) / 1000 or 1 / FPS))
    image.seek(0)
    return begins


def _render_picture(image: Image.Image, framing: _Framing) -> Frames:
    picture = ImageOps.exif_transpose(image)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    transparent = picture.has_transparency_data
    picture = picture.convert("RGBA" if transparent else "RGB")
    pixels = np.asarray(picture.resize(framing.scaled(*picture.size), Image.Resampling.BICUBIC))
    return framing.cut(_over_black(pixels) if transparent else pixels)


# streams


def _read_stream(file: BinaryIO, view: ClipView, rng: np.random.Generator) -> Frames:
    with _container(file) as container:
        stream = _video_stream(container)
        instants = _instants(*_span(container, stream), view, rng)
        render = _Renderer(stream, _Framing(view, rng))
        shown = _shown(_frames_at(container, stream, instants[0]), instants)
        clip: list[Frames] = []
        for _, same in groupby(shown, key=id):
            frame, *repeats = same
            clip += [render(frame)] * (1 + len(repeats))
        return np.stack(clip)


def _probe_stream(file: BinaryIO) -> MediaInfo:
    with _container(file) as container:
        stream = _video_stream(container)
        frames, first, end = _scan(_unbroken(container.demux(stream), stream), stream)
        _, frame = next(_frames_at(container, stream, first))
        if frame is None:
            raise BadSample("it holds no frame that can be decoded")
        width, height = _shown_size(frame, stream.sample_aspect_ratio or 1)
        return MediaInfo(frames, frames / (end - first), width, height, end - first)


def _container(file: BinaryIO) -> InputContainer:
    # a stranger's file may be a playlist: it must not make FFmpeg open other files or addresses
    return av.open(file, options={"protocol_whitelist": ""}, metadata_errors="replace")


def _video_stream(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise BadSample("it holds no picture stream")
    if stream.codec_context is None:
        raise BadSample("there is no decoder for its pictures")
    stream.codec_context.thread_count = 1  # the loader's workers are as many as the cores
    if stream.codec_context.name == "hevc":  # its decoder sets no flag at a frame that it has only guessed
        stream.codec_context.options = {"err_detect": "explode"}
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _span(container: InputContainer, stream: VideoStream) -> tuple[float, float]:
    """The seconds from which and until which the stream is shown, without reading all of it where the file tells."""
    first = stream.start_time
    if stream.duration is not None:
        return _seconds(first or 0, stream), _seconds((first or 0) + stream.duration, stream)
    if container.format.name == "matroska,webm" and first is not None and container.duration is not None:
        container.seek(container.duration)  # the end of its longest stream, so of this one the last key frame
        return _seconds(first, stream), _scan(container.demux(stream), stream)[2]
    return _scan(container.demux(stream), stream)[1:]


def _scan(packets: Iterable[Packet], stream: VideoStream) -> tuple[int, float, float]:
    """How many frames there are, and the seconds from which and until which they are shown, by all time stamps."""
    stamps = [
        (packet.pts if packet.pts is not None else packet.dts, packet.duration or _frame_ticks(stream))
        for packet in packets
        if packet.size and not packet.is_discard
    ]
    stamps = [(stamp, duration) for stamp, duration in stamps if stamp is not None]
    if not stamps:
        raise BadSample("it holds no frame with a time stamp")
    first, end = min(stamps)[0], sum(max(stamps))  # of a stamp and its duration
    return len(stamps), _seconds(first, stream), _seconds(end, stream)


def _unbroken(packets: Iterable[Packet], stream: VideoStream) -> Iterator[Packet]:
    """Raises BadSample at a packet of which a part is missing, as in a file that is cut off."""
    for packet in packets:
        if packet.is_corrupt:
            raise BadSample(f"it is broken or cut off at {_seconds(packet.pts or 0, stream):.2f} s")
        yield packet


def _frame_ticks(stream: VideoStream) -> int:
    return max(1, round(1 / ((stream.average_rate or stream.guessed_rate or FPS) * stream.time_base)))


def _frames_at(container: InputContainer, stream: VideoStream, start: float) -> Iterator[tuple[float, Any]]:
    """Frames with the seconds of their beginnings, decoded from the key frame at or before `start` on; see `_shown`."""
    for target in _seek_targets(start, _seconds(stream.start_time or 0, stream)):
        try:
            container.seek(math.floor(target / stream.time_base), stream=stream)
        except av.error.FFmpegError:  # some formats refuse what is before their beginning, some cannot seek at all
            continue
        frames = _decode(container, stream)
        seconds, frame = next(frames)
        if frame is not None and seconds <= start + TOLERANCE:
            return chain([(seconds, frame)], frames)
    return _decode(container, stream)


def _seek_targets(start: float, begin: float) -> Iterator[float]:
    """Seconds to seek to, one after the other, until the first decoded frame is not after `start`.

    A container may look for a key frame by its place in decoding, which is before its place in time, or only roughly.
    """
    back = 0.0
    while start - back > begin:
        yield start - back
        back = 2 * back + 1
    yield begin
    yield begin - 1


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, Any]]:
    """From the next key frame on, to the end of the last frame; a broken one is an error, since others build on it."""
    stamp, longest = 0, 0  # the last frame's own duration may be that of a neighbour in decoding
    place = None  # the next frame's, in AVI, which tells no more of time than the order of its frames
    try:
        for packet in dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream)):
            if place is None and container.format.name == "avi":
                place = packet.dts
            for frame in packet.decode():
                stamp = frame.pts if place is None else place
                if stamp is None:
                    raise BadSample("its frames have no time stamps")
                duration = frame.duration or _frame_ticks(stream)
                longest = max(longest, duration)
                place = None if place is None else place + duration
                if frame.is_corrupt or packet.is_corrupt:
                    raise BadSample(f"it is broken at {_seconds(stamp, stream):.2f} s")
                yield _seconds(stamp, stream), frame
    except av.error.FFmpegError as error:
        raise BadSample(f"it is broken after {_seconds(stamp, stream):.2f} s: {error.strerror}") from error
    yield _seconds(stamp + longest, stream), None


def _seconds(ticks: int, stream: VideoStream) -> float:
    return float(ticks * stream.time_base)


class _Renderer:
    """Decoded frames as (H, W, 3) RGB."""

    def __init__(self, stream: VideoStream, framing: _Framing) -> None:
        self.aspect = stream.sample_aspect_ratio or 1  # now: the stream goes with its container, before the last frame
        self.framing = framing
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Frames:
        orientation = _Orientation.of(frame)
        width, height = self.framing.scaled(*_shown_size(frame, self.aspect))
        if orientation.transposed:
            width, height = height, width
        transparent = any(component.is_alpha for component in frame.format.components)
        pixels = self.reformatter.reformat(
            frame, width, height, "rgba" if transparent else "rgb24", interpolation=_SCALING, threads=1
        ).to_ndarray()
        return self.framing.cut(orientation.upright(_over_black(pixels) if transparent else pixels))


class _Orientation(NamedTuple):
    """How a decoded picture is turned to be shown: transposed first, then its rows and columns reversed."""

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool

    @classmethod
    def of(cls, frame: VideoFrame) -> _Orientation:
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


def _shown_size(frame: VideoFrame, aspect: Fraction | int) -> tuple[int, int]:
    """Width and height of the upright picture with square pixels."""
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if _Orientation.of(frame).transposed else (width, height)
