"""Decoding videos, with FFmpeg."""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, dropwhile, groupby
from typing import Any, BinaryIO

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from phenaki.core.errors import BadSample
from phenaki.media.convert import Frames
from phenaki.media.render import Renderer, display_size
from phenaki.media.timing import Timeline, make_timeline, round_to_rate
from phenaki.media.view import (
    FPS,
    MAX_VIDEO_PIXELS,
    TOLERANCE,
    ClipView,
    Framing,
    MediaInfo,
    Timed,
    TimedClip,
    check_pixels,
    clip_frames,
    clip_instants,
)

_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg"
_SOUND = "wav,mp3,flac,aac"  # opened only to say that they have no video
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
_PICTURE_BRANDS = ("avif", "avis", "heic", "heix", "heim", "heis", "mif1", "msf1")  # brands of ISO media files
_WITHOUT_INDEX = ("mpeg", "mpegvideo")  # whose time stamps are wrong after seeking
_WITHOUT_STAMPS = ("avi", "mpegvideo")  # which have the order of decoding alone
# PyAV 19 replaces what is no UTF-8 by itself
_BAD_METADATA = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def read_clip(file: BinaryIO, view: ClipView, rng: np.random.Generator) -> TimedClip:
    with _open_video(file) as video:
        instants = clip_instants(*video.span(), view, rng)
        render = video.renderer(Framing(view, rng))
        timed = ((video.corrected(start), frame) for start, frame in video.frames_at(instants[0]))
        visible = clip_frames(timed, instants)
        clip: list[Frames] = []
        for _, same in groupby(visible, key=id):
            frame, *repeats = same
            clip += [render(frame)] * (1 + len(repeats))
        return TimedClip(np.stack(clip), instants)


def read_frames(file: BinaryIO, framing: Framing, since: float = -math.inf) -> Iterator[Timed]:
    with _open_video(file) as video:
        video.timeline()
        video.reopen()
        render = video.renderer(framing)
        for start, frame in video.decode() if since == -math.inf else video.frames_at(since):
            yield video.corrected(start), partial(render, frame) if frame else None


def read_timeline(file: BinaryIO) -> Timeline:
    with _open_video(file) as video:
        return video.timeline()


def probe(file: BinaryIO) -> MediaInfo:
    with _open_video(file) as video:
        timeline = video.timeline()
        _, frame = next(video.frames_at(float(timeline.starts[0])))
        if frame is None:
            raise BadSample("it has no frame that can be decoded")
        width, height = display_size(frame, video.aspect)
        return MediaInfo(timeline.frames, timeline.mean_rate, width, height, timeline.seconds)


def is_interlaced(file: BinaryIO) -> bool:
    with _open_video(file) as video:
        frame = next(video.decode())[1]
        return frame is not None and frame.interlaced_frame


@contextmanager
def _open_video(file: BinaryIO) -> Iterator[_Video]:
    video = _Video(file)
    try:
        yield video
    finally:
        video.close()


class _Video:
    """The video stream of a file. Times are in seconds, as the file counts them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._timeline: Timeline | None = None
        self._keys: list[int] = []
        self._open()

    def _open(self) -> None:
        self._first_key = -math.inf
        self._file.seek(0)
        self.container = open_container(self._file)
        try:
            self.stream = _video_stream(self.container)
            self._decoder = _make_decoder(self.stream)
            width, height = self.stream.codec_context.width, self.stream.codec_context.height
            check_pixels(width, height, MAX_VIDEO_PIXELS)
        except BaseException:
            self.close()
            raise
        self.aspect = Fraction(self.stream.sample_aspect_ratio or 1)

    def close(self) -> None:
        self.container.close()

    def reopen(self) -> None:
        self.close()
        self._open()

    def renderer(self, framing: Framing) -> Renderer:
        return Renderer(self.aspect, framing)

    @property
    def has_index(self) -> bool:
        return self.container.format.name not in _WITHOUT_INDEX

    @property
    def _has_stamps(self) -> bool:
        return self.container.format.name not in _WITHOUT_STAMPS

    def _stamp(self, packet: Packet) -> int | None:
        return packet.pts if packet.pts is not None and self._has_stamps else packet.dts

    def span(self) -> tuple[float, float]:
        """When the stream starts and ends, from the header where it says so."""
        if not self.has_index:
            starts = self.timeline().starts
            return float(starts[0]), float(starts[-1])
        first = self.stream.start_time
        if first is not None and self.stream.duration is not None:
            return self._seconds(first), self._seconds(first + self.stream.duration)
        if self.container.format.name == "matroska,webm" and first is not None and self.container.duration is not None:
            self.container.seek(self.container.duration)  # the longest stream's end: the last key frame of this one
            return self._seconds(first), self._scan(self.container.demux(self.stream))[-1]
        starts = self._scan(self.container.demux(self.stream))
        return starts[0], starts[-1]

    def timeline(self) -> Timeline:
        """Of all frames, without decoding any. Raises BadSample for a file that is cut off or several files joined."""
        if self._timeline is None:
            starts = np.array(self._scan(self._unbroken(), check_order=True))
            stream = self.stream
            stated = [Fraction(rate) for rate in (stream.average_rate, stream.base_rate) if rate]
            self._timeline = make_timeline(starts, float(stream.time_base), stated)
        return self._timeline

    def corrected(self, start: float) -> float:
        """The exact start of a frame, whose time stamp the container may have rounded."""
        if self._timeline is not None:
            return self._timeline.corrected(start)
        rate, first = self.stream.average_rate, self.stream.start_time
        if first is None or not rate or rate != self.stream.base_rate:  # no constant rate
            return start
        return round_to_rate(start, self._seconds(first), Fraction(rate))

    def frames_at(self, start: float) -> Iterator[tuple[float, Any]]:
        """Frames with their start times, decoded from the key frame at or before `start`."""
        for _ in self._seeks(start):
            frames = self.decode()
            seconds, frame = next(frames)
            if frame is not None and seconds <= start + TOLERANCE:
                return chain([(seconds, frame)], frames)
        self.reopen()
        return self.decode()

    def _seeks(self, start: float) -> Iterator[None]:
        """Goes to key frames at about `start`, each before the last."""
        if not self.has_index:
            for key in reversed([key for key in self._keys if self._seconds(key) <= start + TOLERANCE]):
                self.reopen()
                self._first_key = key
                yield
            return
        for target in _seek_targets(start, self._seconds(self.stream.start_time or 0)):
            try:
                self.container.seek(math.floor(target / self.stream.time_base), stream=self.stream)
            except av.error.FFmpegError:  # some formats refuse to seek before their start, some cannot seek
                continue
            self._decoder.flush_buffers()
            yield

    def decode(self) -> Iterator[tuple[float, Any]]:
        """Frames from the next key frame on, then the end of the last. A corrupt frame is an error: others need it."""
        stamp, longest = 0, 0  # the last frame may carry the duration of its neighbour in decoding order
        delayed: _Delayed | None = None
        try:
            for packet in dropwhile(self._is_before_key, self.container.demux(self.stream)):
                if not packet.size and packet.dts is not None:
                    continue  # it repeats the frame before; to the decoder it would mean the end
                if delayed is None:
                    has_stamps = self._has_stamps and packet.pts is not None
                    delayed = _Delayed(None if has_stamps else self._decoder.reorder_depth)
                for frame in delayed.decode(self._decoder, packet):
                    stamp = delayed.stamp(frame)
                    duration = frame.duration or self._frame_ticks()
                    longest = max(longest, duration)
                    if frame.is_corrupt or packet.is_corrupt:
                        raise BadSample(f"it is corrupt at {self._seconds(stamp):.2f} s")
                    yield self._seconds(stamp), frame
        except av.error.FFmpegError as error:
            raise BadSample(f"it is corrupt after {self._seconds(stamp):.2f} s: {error.strerror}") from error
        yield self._seconds(stamp + longest), None

    def _is_before_key(self, packet: Packet) -> bool:
        return not packet.is_keyframe or (self._stamp(packet) or 0) < self._first_key

    def _unbroken(self) -> Iterator[Packet]:
        """Raises BadSample at an incomplete packet, as in a truncated file."""
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:
                raise BadSample(f"it is corrupt or truncated at {self._seconds(packet.pts or 0):.2f} s")
            yield packet

    def _scan(self, packets: Iterable[Packet], check_order: bool = False) -> list[float]:
        """When each frame starts and the last one ends, in the order in which they are shown.

        check_order: raise BadSample where the time stamps start over, as in files that were joined byte by byte.
        """
        stamps: list[tuple[int, int]] = []
        latest = -math.inf
        for packet in packets:
            stamp = self._stamp(packet)
            if stamp is None or not packet.size or packet.is_discard:
                continue
            if (
                check_order and packet.is_keyframe and stamp < latest
            ):  # what comes before a key frame is shown before it
                raise BadSample(
                    f"its time stamps jump back from {self._seconds(latest):.2f} to {self._seconds(stamp):.2f} s"
                )
            latest = max(latest, stamp)
            if packet.is_keyframe:
                self._keys.append(stamp)
            stamps.append((stamp, packet.duration or self._frame_ticks()))
        if not stamps:
            raise BadSample("it has no frame with a time stamp")
        stamps.sort()
        return [self._seconds(ticks) for ticks in (*(stamp for stamp, _ in stamps), sum(stamps[-1]))]

    def _frame_ticks(self) -> int:
        stream = self.stream
        return max(1, round(1 / ((stream.average_rate or stream.guessed_rate or FPS) * stream.time_base)))

    def _seconds(self, ticks: float) -> float:
        return float(ticks * self.stream.time_base)


class _Delayed:
    """Decodes packets in order. Where they have no time stamps of presentation (depth is not None), a frame takes the
    decoding time of the packet that lies `depth` before the one with which it comes out of the decoder."""

    def __init__(self, depth: int | None) -> None:
        self._depth = depth
        self._times: deque[int] = deque(maxlen=64)
        self._next = 0

    def decode(self, decoder: CodecContext, packet: Packet) -> list[VideoFrame]:
        if self._depth is not None:
            if packet.size:
                self._times.append(packet.dts)
            # at the end, the decoder lets out what it still holds
            self._next = len(self._times) - self._depth - bool(packet.size)
        return decoder.decode(packet)

    def stamp(self, frame: VideoFrame) -> int:
        stamp = frame.pts
        if self._depth is not None:
            stamp = self._times[min(max(0, self._next), len(self._times) - 1)] if self._times else None
            self._next += 1
        if stamp is None:
            raise BadSample("its frames have no time stamps")
        return stamp


class _Quiet(io.RawIOBase):
    """A file that says where it cannot seek, for which PyAV would print a traceback."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -1


def open_container(file: BinaryIO) -> InputContainer:
    """A video file of a known format. Raises BadSample for a picture, and what PyAV raises."""
    # an untrusted file may be a playlist: it must not make FFmpeg open other files or addresses
    options = {"protocol_whitelist": "", "format_whitelist": f"{_FORMATS},{_SOUND}"}
    try:
        container = av.open(_Quiet(file), options=options, **_BAD_METADATA)
    except av.error.ArgumentError as error:
        raise BadSample(f"it cannot be read: videos have the formats {_FORMATS.replace(',', ', ')}") from error
    brand = container.metadata.get("major_brand", "").strip()
    if brand in _PICTURE_BRANDS:
        container.close()
        raise BadSample(f"it is a picture ({brand.upper()}): an AVIF picture is named .avif, HEIC converted to JPEG")
    return container


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & _NO_VIDEO]
    if not streams:
        raise BadSample("it has no video stream")
    if len(streams) > 1:
        raise BadSample(f"it has {len(streams)} video streams; keep one of them (ffmpeg -i IN -map 0:v:0 -c copy OUT)")
    stream = streams[0]
    if stream.codec_context is None:
        raise BadSample("there is no decoder for its codec")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _make_decoder(stream: VideoStream) -> VideoCodecContext:
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1":  # the usual decoders pass over it
        name = _ALPHA_DECODERS.get(decoder.name)
        if name not in av.codecs_available:
            raise BadSample("it is transparent, and there is no decoder for the transparency of its codec")
        decoder = CodecContext.create(name, "r")
        decoder.width, decoder.height = stream.codec_context.width, stream.codec_context.height
    decoder.thread_count = 1  # the loader already runs a worker per core
    options = {"max_pixels": str(MAX_VIDEO_PIXELS)}
    if decoder.name == "hevc":  # it does not flag frames that it conceals
        options["err_detect"] = "explode"
    decoder.options = options
    return decoder


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


def decoders() -> set[str]:
    """Names of the codecs that this FFmpeg decodes, such as h264."""
    known = set()
    for name in av.codecs_available:
        try:
            known.add(av.Codec(name, "r").canonical_name)
        except av.codec.codec.UnknownCodecError:  # encode only
            continue
    return known
