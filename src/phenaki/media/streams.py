"""Decoding videos, with FFmpeg."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import partial
from itertools import chain, dropwhile, groupby
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

from phenaki.core.errors import BadSample
from phenaki.media.convert import Frames
from phenaki.media.view import (
    FPS,
    TOLERANCE,
    ClipView,
    Framing,
    MediaInfo,
    Timed,
    TimedClip,
    clip_frames,
    clip_instants,
    over_black,
)

# all of swscale's kernels but the fast one antialias; without the two flags white becomes 253
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def read_clip(file: BinaryIO, view: ClipView, rng: np.random.Generator) -> TimedClip:
    with _open_container(file) as container:
        stream = _video_stream(container)
        instants = clip_instants(*_span(container, stream), view, rng)
        render = _Renderer(stream, Framing(view, rng))
        visible = clip_frames(_frames_at(container, stream, instants[0]), instants)
        clip: list[Frames] = []
        for _, same in groupby(visible, key=id):
            frame, *repeats = same
            clip += [render(frame)] * (1 + len(repeats))
        return TimedClip(np.stack(clip), instants)


def read_frames(file: BinaryIO, framing: Framing) -> Iterator[Timed]:
    with _open_container(file) as container:
        stream = _video_stream(container)
        render = _Renderer(stream, framing)
        for start, frame in _decode(container, stream):
            yield start, partial(render, frame) if frame else None


def read_starts(file: BinaryIO) -> NDArray[np.float64]:
    with _open_container(file) as container:
        stream = _video_stream(container)
        stamps = _stamps(_unbroken(container.demux(stream), stream), stream)
        return np.array([*(_seconds(stamp, stream) for stamp, _ in stamps), _seconds(sum(stamps[-1]), stream)])


def probe(file: BinaryIO) -> MediaInfo:
    with _open_container(file) as container:
        stream = _video_stream(container)
        frames, first, end = _scan(_unbroken(container.demux(stream), stream), stream)
        _, frame = next(_frames_at(container, stream, first))
        if frame is None:
            raise BadSample("it has no frame that can be decoded")
        width, height = _display_size(frame, stream.sample_aspect_ratio or 1)
        return MediaInfo(frames, frames / (end - first), width, height, end - first)


def _open_container(file: BinaryIO) -> InputContainer:
    # an untrusted file may be a playlist: it must not make FFmpeg open other files or addresses
    return av.open(file, options={"protocol_whitelist": ""}, metadata_errors="replace")


def _video_stream(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise BadSample("it has no video stream")
    if stream.codec_context is None:
        raise BadSample("there is no decoder for its codec")
    stream.codec_context.thread_count = 1  # the loader already runs a worker per core
    if stream.codec_context.name == "hevc":  # its decoder does not flag frames that it conceals
        stream.codec_context.options = {"err_detect": "explode"}
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _span(container: InputContainer, stream: VideoStream) -> tuple[float, float]:
    """When the stream starts and ends, in seconds, from the header where it says so."""
    first = stream.start_time
    if stream.duration is not None:
        return _seconds(first or 0, stream), _seconds((first or 0) + stream.duration, stream)
    if container.format.name == "matroska,webm" and first is not None and container.duration is not None:
        container.seek(container.duration)  # the end of the longest stream: the last key frame of this one
        return _seconds(first, stream), _scan(container.demux(stream), stream)[2]
    return _scan(container.demux(stream), stream)[1:]


def _scan(packets: Iterable[Packet], stream: VideoStream) -> tuple[int, float, float]:
    """The number of frames, and when the first starts and the last ends in seconds, from all time stamps."""
    stamps = _stamps(packets, stream)
    return len(stamps), _seconds(stamps[0][0], stream), _seconds(sum(stamps[-1]), stream)


def _stamps(packets: Iterable[Packet], stream: VideoStream) -> list[tuple[int, int]]:
    """Start and duration of each frame, in ticks, in the order in which they are shown."""
    stamps = [
        (packet.pts if packet.pts is not None else packet.dts, packet.duration or _frame_ticks(stream))
        for packet in packets
        if packet.size and not packet.is_discard
    ]
    stamps = [(stamp, duration) for stamp, duration in stamps if stamp is not None]
    if not stamps:
        raise BadSample("it has no frame with a time stamp")
    return sorted(stamps)


def _unbroken(packets: Iterable[Packet], stream: VideoStream) -> Iterator[Packet]:
    """Raises BadSample at an incomplete packet, as in a truncated file."""
    for packet in packets:
        if packet.is_corrupt:
            raise BadSample(f"it is corrupt or truncated at {_seconds(packet.pts or 0, stream):.2f} s")
        yield packet


def _frame_ticks(stream: VideoStream) -> int:
    return max(1, round(1 / ((stream.average_rate or stream.guessed_rate or FPS) * stream.time_base)))


def _frames_at(container: InputContainer, stream: VideoStream, start: float) -> Iterator[tuple[float, Any]]:
    """Frames with their start times in seconds, decoded from the key frame at or before `start`."""
    for target in _seek_targets(start, _seconds(stream.start_time or 0, stream)):
        try:
            container.seek(math.floor(target / stream.time_base), stream=stream)
        except av.error.FFmpegError:  # some formats refuse to seek before their start, some cannot seek
            continue
        frames = _decode(container, stream)
        seconds, frame = next(frames)
        if frame is not None and seconds <= start + TOLERANCE:
            return chain([(seconds, frame)], frames)
    return _decode(container, stream)


def _seek_targets(start: float, first: float) -> Iterator[float]:
    """Where to seek, in seconds, until the first decoded frame is not after `start`.

    A container may seek by decoding time, which is before presentation time, or only roughly.
    """
    back = 0.0
    while start - back > first:
        yield start - back
        back = 2 * back + 1
    yield first
    yield first - 1


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, Any]]:
    """Frames from the next key frame on, then the end of the last. A corrupt frame is an error: others depend on it."""
    stamp, longest = 0, 0  # the last frame may carry the duration of its neighbour in decoding order
    tick = None  # of the next frame in AVI, which has no time stamps but the order of its frames
    try:
        for packet in dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream)):
            if tick is None and container.format.name == "avi":
                tick = packet.dts
            for frame in packet.decode():
                stamp = frame.pts if tick is None else tick
                if stamp is None:
                    raise BadSample("its frames have no time stamps")
                duration = frame.duration or _frame_ticks(stream)
                longest = max(longest, duration)
                tick = None if tick is None else tick + duration
                if frame.is_corrupt or packet.is_corrupt:
                    raise BadSample(f"it is corrupt at {_seconds(stamp, stream):.2f} s")
                yield _seconds(stamp, stream), frame
    except av.error.FFmpegError as error:
        raise BadSample(f"it is corrupt after {_seconds(stamp, stream):.2f} s: {error.strerror}") from error
    yield _seconds(stamp + longest, stream), None


def _seconds(ticks: int, stream: VideoStream) -> float:
    return float(ticks * stream.time_base)


class _Renderer:
    """Converts decoded frames to RGB (H, W, 3)."""

    def __init__(self, stream: VideoStream, framing: Framing) -> None:
        self.aspect = (
            stream.sample_aspect_ratio or 1
        )  # read now: the stream is closed before the last frame is rendered
        self.framing = framing
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Frames:
        orientation = _Orientation.of(frame)
        width, height = self.framing.scaled(*_display_size(frame, self.aspect))
        if orientation.transposed:
            width, height = height, width
        transparent = any(component.is_alpha for component in frame.format.components)
        pixels = self.reformatter.reformat(
            frame, width, height, "rgba" if transparent else "rgb24", interpolation=_SCALING, threads=1
        ).to_ndarray()
        return self.framing.crop(orientation.upright(over_black(pixels) if transparent else pixels))


class _Orientation(NamedTuple):
    """How a decoded picture is turned upright: first transposed, then its rows and columns reversed."""

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


def _display_size(frame: VideoFrame, aspect: Fraction | int) -> tuple[int, int]:
    """Width and height of the upright picture with square pixels."""
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if _Orientation.of(frame).transposed else (width, height)


def decoders() -> set[str]:
    """Names of the codecs that this FFmpeg decodes, such as h264."""
    known = set()
    for name in av.codecs_available:
        try:
            known.add(av.Codec(name, "r").canonical_name)
        except av.codec.codec.UnknownCodecError:  # encode only
            continue
    return known
