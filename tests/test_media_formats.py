"""Details of containers and codecs: what cameras and other programs write is read right, or refused in words."""

from __future__ import annotations

import io
import os
import struct
import subprocess
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from PIL import Image

from helpers import media_files
from helpers.media_files import even, grey, index_of, video
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.cuts import Cutting, cut_clips
from phenaki.media import pictures, reader, view
from phenaki.media.reader import is_interlaced, probe, read_at_rate, read_clip, read_frames, read_timeline, read_video
from phenaki.media.resample import resample
from phenaki.media.view import ClipView

FILES = Path(__file__).parent / "files"
CORNERS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 220)]


class Fixed(np.random.Generator):
    """Always draws the same number, so that a test chooses where a clip begins."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size: int | None = None) -> float | np.ndarray:  # type: ignore[override]
        return self.number if size is None else np.full(size, self.number)


def read(data: bytes | Path, ending: str, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return read_clip(data, ending, ClipView(1, 8, size, random=False), np.random.default_rng(0))[0]


def all_indices(data: bytes, ending: str) -> list[int]:
    return index_of(np.stack([render() for _, render in read_frames(data, ending, (48, 64)) if render]))


def motion_jpeg(exif: Image.Exif, frames: int = 12) -> bytes:
    """As cameras write it: each frame a photograph with Exif. Its left half is white."""
    picture = grey(0, (48, 64))
    picture[:, :32] = 255
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(frames):
            packet = av.Packet(media_files.picture(picture, "JPEG", exif=exif))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 20), True
            packet.pts, packet.dts, packet.duration = index, index, 1
            container.mux(packet)
    return file.getvalue()


# side data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_motion_jpeg_with_exif_is_read_and_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Canon", orientation
    data = motion_jpeg(exif)
    upright = Image.new("L", (64, 48))
    upright.paste(255, (0, 0, 32, 48))
    if orientation > 1:
        upright = upright.transpose(pictures._UPRIGHT[orientation])
    info = probe(data, ".avi")
    assert (info.frames, info.width, info.height) == (12, *upright.size)
    frame = read(data, ".avi", (info.height, info.width)).mean(-1)
    assert np.abs(frame - np.asarray(upright)).mean() < 8


@pytest.mark.parametrize(("form", "ending"), [("TIFF", ".tif"), ("AVIF", ".avif"), ("JPEG", ".jfif")])
def test_pictures_of_cameras_are_read(form: str, ending: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Canon", 6
    data = media_files.picture(media_files.corners(0, (48, 64)), form, exif=exif)
    assert probe(data, ending)[:4] == (1, 0, 48, 64)
    frame = read(data, ending, (64, 48)).astype(int)
    assert np.abs(frame[:28, 28:] - (255, 0, 0)).mean() < 20  # turned to the right: upper left is now upper right


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_malformed_exif_does_not_refuse_a_sound_picture() -> None:
    for exif in (
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0" + bytes(40),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02",
    ):
        data = media_files.picture(grey(30, (48, 64)), "JPEG", exif=exif)
        assert index_of(read(data, ".jpg")[None]) == [30]


# time stamps


RATES = [
    Fraction(24),
    Fraction(24_000, 1001),
    Fraction(30_000, 1001),
    Fraction(48),
    Fraction(60_000, 1001),
    Fraction(16),
]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("form", "ending"), [("matroska", ".mkv"), ("flv", ".flv"), ("mp4", ".mp4")])
def test_rounded_time_stamps_of_a_constant_rate_are_put_right(
    rate: Fraction, form: str, ending: str, tmp_path: Path
) -> None:
    data = video(even(50, float(rate)), form, tick=Fraction(1, 1000))
    timeline = read_timeline(data, ending)
    assert timeline.rate == rate
    assert np.allclose(np.diff(timeline.starts), float(1 / rate), atol=1e-9)
    path = tmp_path / f"clip{ending}"
    path.write_bytes(data)
    (clip,) = cut_clips(path, ending, Cutting(size=48))
    assert all_indices(clip.media, ".mp4") == list(range(50))
    assert probe(clip.media, ".mp4").fps == pytest.approx(float(rate), rel=1e-6)


def test_animations_of_a_constant_rate_keep_all_frames() -> None:
    data = media_files.animation("GIF", [30, 40, 30, 30, 40, 30, 30, 40, 30])  # 30 frames per second
    assert read_timeline(data, ".gif").rate == 30


def test_a_variable_rate_stays_one() -> None:
    stamps = [0, 0.04, 0.1, 0.2, 0.23, 0.4, 0.41, 0.6]
    for form, ending in (("matroska", ".mkv"), ("mp4", ".mp4")):
        timeline = read_timeline(video(stamps, form), ending)
        assert timeline.rate is None
        assert timeline.starts[:-1].tolist() == pytest.approx(stamps, abs=1e-3)


@pytest.mark.parametrize(("form", "ending"), [("matroska", ".mkv"), ("mpegts", ".ts"), ("mpeg", ".mpg")])
@pytest.mark.parametrize("frames", [(60, 30), (10, 10), (2, 12)])
def test_files_joined_byte_by_byte_are_refused(form: str, ending: str, frames: tuple[int, int]) -> None:
    codec = "mpeg2video" if form == "mpeg" else "libx264"
    joined = b"".join(video(even(count), form, codec, tick=Fraction(1, RATE)) for count in frames)
    with pytest.raises(BadSample, match="its time stamps jump back|it is corrupt"):
        probe(joined, ending)


RATE = 30
REORDERED = {
    "Xvid in AVI": ("avi", ".avi", "mpeg4", {"bf": "2"}),
    "H.264 in AVI": ("avi", ".avi", "libx264", {"bf": "3", "x264-params": "b-adapt=0"}),
    "H.264 in AVI, open groups": ("avi", ".avi", "libx264", {"bf": "3", "x264-params": "b-adapt=0:open-gop=1"}),
    "MPEG program stream": ("mpeg", ".mpg", "mpeg1video", {"bf": "2"}),
    "DVD": ("vob", ".vob", "mpeg2video", {"bf": "2"}),
    "MPEG-2 without a container": ("mpeg2video", ".mpg", "mpeg2video", {"bf": "2"}),
    "AVCHD": ("mpegts", ".mts", "libx264", {"bf": "3"}),
    "MPEG-4 in ASF": ("asf", ".asf", "mpeg4", {"bf": "2"}),
}


@pytest.mark.parametrize("name", REORDERED)
def test_frames_come_in_the_order_in_which_they_are_shown(name: str) -> None:
    form, ending, codec, options = REORDERED[name]
    data = video(even(60), form, codec, options=options, tick=Fraction(1, RATE), paint=counted)
    assert probe(data, ending).frames == 60
    assert [count(render()) for _, render in read_frames(data, ending, (48, 64)) if render] == list(range(60))
    for number in (0.0, 0.13, 0.35, 0.5, 0.77, 0.999):
        clip = read_clip(data, ending, ClipView(5, 8, (48, 64), random=True), Fixed(number))
        start = (2 - 0.5 - 0.001) * number
        wanted = [int((start + index / 8 + 0.0005) * RATE) for index in range(5)]
        assert [count(frame) for frame in clip] == wanted, number


def test_packed_b_frames_of_divx_keep_their_order() -> None:
    """Two frames in one packet, and an empty one behind it: so old programs, which knew no B-frames, wrote them."""
    source = video(
        even(31), "avi", "mpeg4", options={"bf": "1", "b_strategy": "0"}, tick=Fraction(1, RATE), paint=counted
    )
    vop, file, chunks = b"\0\0\1\xb6", io.BytesIO(), []
    with av.open(io.BytesIO(source)) as container, av.open(file, "w", format="avi") as packed:
        stream = packed.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            data = bytes(packet)
            if packet.is_keyframe:
                chunks.append((data.replace(vop, b"\0\0\1\xb2DivX503b1393p" + vop), True))
            elif data and data[data.index(vop) + 4] >> 6 == 2:
                chunks[-1] = chunks[-1][0] + data, chunks[-1][1]
                chunks.append((vop + b"\x51\x00\x7f", False))
            elif data:
                chunks.append((data, False))
        for index, (data, is_key) in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, RATE), is_key
            packet.pts, packet.dts, packet.duration = index, index, 1
            packed.mux(packet)
    assert [count(render()) for _, render in read_frames(file.getvalue(), ".avi", (48, 64)) if render] == list(
        range(31)
    )
    for number in (0.1, 0.5, 0.9):
        clip = read_clip(file.getvalue(), ".avi", ClipView(3, RATE, (48, 64), random=True), Fixed(number))
        first = int((31 / RATE - 2 / RATE - 0.001) * number * RATE + 0.02)
        assert [count(frame) for frame in clip] == [first, first + 1, first + 2]


def counted(index: int, size: tuple[int, int]) -> np.ndarray:
    """A frame with its index as stripes, which survive any codec."""
    bits = np.array([255 * (index >> bit & 1) for bit in range(8)], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(bits.repeat(size[1] // 8)[None, :, None], (*size, 3)))


def count(frame: np.ndarray) -> int:
    stripes = frame.reshape(frame.shape[0], 8, -1).mean((0, 2)) > 127
    return int((stripes << np.arange(8)).sum())


def test_dropped_frames_of_an_avi_keep_their_time(tmp_path: Path) -> None:
    stamps = [index / RATE for index in range(60) if index % 10 not in (3, 4)]
    data = video(stamps, "avi", tick=Fraction(1, RATE), options={"bf": "0"})
    timed = [(start, render) for start, render in read_frames(data, ".avi", (48, 64))]
    assert [start for start, _ in timed[:-1]] == pytest.approx(stamps)
    path = tmp_path / "clip.avi"
    path.write_bytes(data)
    (clip,) = cut_clips(path, ".avi", Cutting(size=48))
    shown = [sum(stamp <= index / RATE + 0.001 for stamp in stamps) - 1 for index in range(60)]
    assert clip.info.fps == RATE and all_indices(clip.media, ".mp4") == shown
    assert index_of(np.stack([render() for _, render in timed[:-1]])) == list(range(len(stamps)))


# several in one


def test_tiles_make_one_picture() -> None:
    data = (FILES / "grid.avif").read_bytes()
    assert probe(data, ".avif")[:4] == (1, 0, 512, 512)
    frame = read(data, ".avif", (512, 512)).astype(int)
    corners = [frame[y, x] for y in (60, 450) for x in (60, 450)]
    assert np.abs(np.array(corners) - CORNERS).max() < 12
    with pytest.raises(BadSample, match="it is a picture"):
        read(data, ".mp4")


@pytest.mark.parametrize("ending", [".heic", ".heif", ".jpg", ".mp4", ".mov"])
def test_heic_is_refused_with_the_way_out(ending: str) -> None:
    """A decoder for it that a broken file does not crash was not found; one tile is no picture."""
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for data in ((FILES / "picture.heic").read_bytes(), head + bytes(500)):
        with pytest.raises(BadSample, match="it is HEIC or a video: convert|it is a picture|cannot be read"):
            read(data, ending)
    with pytest.raises(BadSample, match="it is HEIC or a video: convert a HEIC picture to JPEG"):
        probe((FILES / "picture.heic").read_bytes(), ".heic")


def test_two_video_streams_are_refused() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        for _ in range(2):
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream in container.streams:
            for index in range(10):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(index, (48, 64)))))
            container.mux(stream.encode())
    with pytest.raises(BadSample, match="it has 2 video streams"):
        probe(file.getvalue(), ".mkv")


def test_a_picture_of_many_pages_is_refused() -> None:
    pages, file = [Image.fromarray(grey(index, (48, 64))) for index in range(3)], io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(BadSample, match="it has 3 pages"):
        read(file.getvalue(), ".tif")


# transparency


def transparent(size: tuple[int, int], hidden: int = 250) -> np.ndarray:
    """Red where it is opaque, in the middle; bright where it is transparent, which nobody is to see."""
    rgba = np.dstack([np.full((*size, 3), hidden, np.uint8), np.zeros(size, np.uint8)])
    rgba[size[0] // 4 : 3 * size[0] // 4, size[1] // 4 : 3 * size[1] // 4] = (200, 40, 40, 255)
    return rgba


@pytest.mark.parametrize(
    ("codec", "form", "pixels", "ending"),
    [
        ("libvpx-vp9", "webm", "yuva420p", ".webm"),
        ("libvpx", "webm", "yuva420p", ".webm"),
        ("libvpx-vp9", "matroska", "yuva420p", ".mkv"),
        ("prores_ks", "mov", "yuva444p10le", ".mov"),
        ("qtrle", "mov", "argb", ".mov"),
        ("ffv1", "matroska", "yuva420p", ".mkv"),
    ],
)
def test_what_is_transparent_is_black_and_leaves_no_fringe(codec: str, form: str, pixels: str, ending: str) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        options = {"crf": "4", "b": "0", "auto-alt-ref": "0"} if "vpx" in codec else {}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 256, 192, pixels
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(transparent((192, 256)), format="rgba")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    for number in (0.0, 0.9):  # a clip behind a seek too
        clip = read_clip(file.getvalue(), ending, ClipView(1, 10, (192, 256), random=True), Fixed(number))
        assert clip[0][:40].max() < 12
        assert np.abs(clip[0][60:130, 80:170].astype(int) - (200, 40, 40)).mean() < 8
    small = read(file.getvalue(), ending, (12, 16)).astype(int)
    assert small[:, :, 1].max() < 70  # the hidden colour has 250


@pytest.mark.parametrize(("form", "ending"), [("PNG", ".png"), ("WebP", ".webp"), ("AVIF", ".avif"), ("TIFF", ".tif")])
def test_transparent_pictures_leave_no_fringe(form: str, ending: str) -> None:
    data = media_files.picture(transparent((192, 256)), form)
    frame = read(data, ending, (192, 256))
    assert frame[:40].max() < 12
    assert read(data, ending, (12, 16))[:, :, 1].max() < 70


# containers


def test_the_still_picture_of_an_animated_png_is_no_frame() -> None:
    images = [Image.fromarray(grey(index, (48, 64))) for index in (50, 1, 2, 3)]
    for default, wanted in ((True, [1, 2, 3]), (False, [50, 1, 2, 3])):
        file = io.BytesIO()
        images[0].save(file, "PNG", save_all=True, append_images=images[1:], duration=100, default_image=default)
        for ending in (".png", ".apng"):
            assert all_indices(file.getvalue(), ending) == wanted
            assert probe(file.getvalue(), ending).seconds == pytest.approx(len(wanted) / 10)
            clip = read_clip(file.getvalue(), ending, ClipView(2, 10, (48, 64), random=True), Fixed(0.0))
            assert index_of(clip) == wanted[:2]


@pytest.mark.parametrize("duration", [0, 10])
def test_frames_of_ten_milliseconds_and_less_last_a_hundred_as_in_browsers(duration: int) -> None:
    images = [Image.fromarray(grey(index, (24, 32))) for index in range(5)]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=duration)
    assert probe(file.getvalue(), ".gif").seconds == pytest.approx(0.5)
    assert probe(media_files.animation("GIF", [20] * 5), ".gif").seconds == pytest.approx(0.1)


@pytest.mark.parametrize(("transfer", "white"), [(ColorTrc.SMPTE2084, 0.5807), (ColorTrc.ARIB_STD_B67, 0.75)])
def test_high_dynamic_range_is_converted(transfer: ColorTrc, white: float) -> None:
    """White paper, of 203 cd/m2, is nearly white; a bright light is whiter, and grey stays grey."""

    def encoded(signal: float) -> bytes:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace = transfer, ColorPrimaries.BT2020, 9
            for index in range(3):
                frame = av.VideoFrame(64, 48, "yuv420p10le")
                for plane, level in zip(frame.planes, (round(64 + 876 * signal), 512, 512), strict=True):
                    plane.update(np.full(plane.buffer_size // 2, level, "<u2").tobytes())
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return file.getvalue()

    levels = [read(encoded(signal), ".mp4") for signal in (0.0, white / 2, white, 0.95)]
    assert all(np.ptp(level.reshape(-1, 3)) < 4 for level in levels)
    black, grey_level, paper, light = (float(level.mean()) for level in levels)
    assert black < 2 < 30 < grey_level < 150 < 225 < paper < 245 < light <= 255


def test_interlaced_videos_are_noticed() -> None:
    options = {"x264-params": "tff=1:cpu-independent=1"}
    assert is_interlaced(video(even(10), options=options), ".mp4")
    assert not is_interlaced(video(even(10)), ".mp4")
    assert not is_interlaced(media_files.animation("GIF", [100] * 3), ".gif")


# at another rate


@pytest.mark.parametrize(
    ("form", "ending"), [("mp4", ".mp4"), ("matroska", ".mkv"), ("GIF", ".gif"), ("WebP", ".webp")]
)
def test_a_variable_rate_whose_mean_is_the_models_is_resampled(form: str, ending: str, tmp_path: Path) -> None:
    durations = [50, 50, 50, 350, 50, 200]  # six frames in 750 ms: 8 per second in the mean
    stamps = np.cumsum([0, *durations]) / 1000
    path = tmp_path / f"clip{ending}"
    if ending in (".gif", ".webp"):
        path.write_bytes(media_files.animation(form, durations, (48, 64)))
    else:
        path.write_bytes(video([*stamps[:-1], stamps[-1]], form))
    clip, info = read_at_rate(path, (48, 64), 8)
    wanted = [int(np.searchsorted(stamps, index / 8 + 0.0005, "right")) - 1 for index in range(len(clip))]
    assert index_of(clip) == wanted and wanted[:6] == [0, 2, 3, 3, 4, 5]
    assert index_of(read_at_rate(path, (48, 64), None)[0]) == list(range(info.frames))


def test_a_constant_rate_that_is_the_models_is_kept(tmp_path: Path) -> None:
    for ending, data in (
        (".mkv", video(even(20, 8), "matroska")),
        (".gif", media_files.animation("GIF", [120, 130] * 6)),
    ):
        (tmp_path / f"clip{ending}").write_bytes(data)
        clip, info = read_at_rate(tmp_path / f"clip{ending}", (48, 64), 8)
        assert index_of(clip) == list(range(info.frames))


@pytest.mark.timeout(20)
def test_frames_that_last_long_do_not_fill_memory_or_disk(tmp_path: Path) -> None:
    path = tmp_path / "long.gif"
    images = [Image.new("L", (4, 4), index % 2) for index in range(500)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=59_000)
    with pytest.raises(BadSample, match="236,000 frames of 1024x1024, more than the limit of 67,108,864 pixels"):
        read_at_rate(path, (1024, 1024), 8)
    with pytest.raises(BadSample, match="s, which is more than the limit of 200,000 frames at 8 per second"):
        list(resample(read_frames(path, ".gif", (4, 4)), 8))
    with pytest.raises(BadSample, match="limit of 200,000 frames"):
        list(cut_clips(path, ".gif", Cutting(fps=8)))
    far = tmp_path / "far.mkv"
    far.write_bytes(video([0, 1, 40_000_000], "matroska"))
    with pytest.raises(BadSample, match="limit of 200,000 frames"):
        list(cut_clips(far, ".mkv", Cutting(fps=30)))


# what must not be opened


@pytest.mark.parametrize("ending", [".mp4", ".png"])
def test_an_empty_file_is_said_to_be_empty(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a{ending}").write_bytes(b"")
    with pytest.raises(BadSample, match="it cannot be read: it is empty"):
        probe(tmp_path / f"a{ending}", ending)


def test_a_postscript_file_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 20 20 rectfill\nshowpage\n"
    for ending in (".png", ".jpg", ".gif", ".tif", ".eps", ".mp4"):
        (tmp_path / f"a{ending}").write_bytes(script)
        with pytest.raises(BadSample, match="cannot be read"):
            probe(tmp_path / f"a{ending}", ending)
        with pytest.raises(PhenakiError, match="cannot be read"):
            read_video(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts", ".png", ".avi"])
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'secret.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD><Period><AdaptationSet mimeType="video/mp4"><BaseURL>secret.mp4</BaseURL>'
        "</AdaptationSet></Period></MPD>",
    ],
)
def test_playlists_open_nothing(ending: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.mp4").write_bytes(video(even(10)))
    Path(f"list{ending}").write_text(text)
    with pytest.raises(PhenakiError, match="cannot be read"):
        read_video(f"list{ending}")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices have names on POSIX systems alone")
@pytest.mark.parametrize("ending", [".mp4", ".png"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(ending: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"device{ending}").symlink_to("/dev/zero")
    (tmp_path / f"link{ending}").symlink_to(f"pipe{ending}")
    for name, kind in (("pipe", "a pipe"), ("device", "a device"), ("link", "a pipe")):
        with pytest.raises(PhenakiError, match=f"it is {kind}, not a regular file"):
            read_video(tmp_path / f"{name}{ending}")


def test_a_frame_beyond_the_picture_is_refused_before_it_takes_memory() -> None:
    data = bytearray(media_files.animation("GIF", [100, 50, 100]))
    second = data.index(b",", data.index(b"!\xf9\x04", data.index(b"!\xf9\x04") + 1))
    data[second + 5 : second + 9] = struct.pack("<HH", 9000, 9000)
    for reading in (probe, read):
        with pytest.raises(BadSample, match="its frame 1 has 9000x9000 pixels, after frames of 32x24: it is broken"):
            reading(bytes(data), ".gif")


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = media_files.animation("WebP", [100] * 50)
    monkeypatch.setattr(pictures, "MAX_ANIMATION_PIXELS", 50 * 24 * 32 - 1)
    with pytest.raises(BadSample, match="50 frames of 32x24, more than the limit of 38,399 pixels in all"):
        probe(data, ".webp")
    monkeypatch.setattr(reader, "check_clip", partial(view.check_clip, most=10 * 48 * 64))
    path = tmp_path / "clip.mp4"
    path.write_bytes(video(even(10)))
    assert len(read_video(path).frames) == 10
    path.write_bytes(video(even(11)))
    with pytest.raises(
        PhenakiError, match="clip.mp4': 11 frames of 64x48, more than the limit of 30,720 pixels in all"
    ):
        read_video(path)
    with pytest.raises(BadSample, match="8192x8192 pixels, more than the limit of 40,000,000"):
        probe(video([0, 1], size=(8192, 8192), codec="mjpeg", form="avi", pixels="yuvj420p", tick=Fraction(1)), ".avi")
