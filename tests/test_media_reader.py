"""A clip holds the frames that are shown at its instants, as they are to be shown; what is broken is said in words."""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from helpers import media_files
from helpers.media_files import even, index_of, video
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.media import reader, streams
from phenaki.media.reader import probe, read_clip
from phenaki.media.view import ClipView, StillPicture, clip_frames

FORMS = {
    "mp4": {},
    "mp4, open groups of pictures": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "mp4 in fragments": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mp4, H.265": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1"}},
    "mov, ProRes, 10 bits": {"form": "mov", "codec": "prores_ks", "pixels": "yuv422p10le"},
    "mkv": {"form": "matroska"},
    "mkv without duration": {"form": "matroska", "seekable": False},
    "webm, VP9": {"form": "webm", "codec": "libvpx-vp9"},
    "avi": {"form": "avi", "tick": Fraction(1, 30)},
    "ts": {"form": "mpegts"},
    "flv": {"form": "flv"},
    "10 bits": {"pixels": "yuv420p10le"},
    "grey": {"form": "matroska", "codec": "ffv1", "pixels": "gray"},
}


class Fixed(np.random.Generator):
    """Draws the same number each time, so that a test chooses the random place."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size: int | None = None) -> float | np.ndarray:  # type: ignore[override]
        return self.number if size is None else np.full(size, self.number)


def view(frames: int = 1, fps: float = 8, size: tuple[int, int] = (16, 16), random: bool = False) -> ClipView:
    return ClipView(frames, fps, size, random)


def clip_at(data: bytes, place: float, frames: int = 1, fps: float = 8) -> list[int]:
    return index_of(read_clip(data, ".mp4", view(frames, fps, random=True), Fixed(place)))


def read(data: bytes | Path, ending: str = ".mp4", **choices: object) -> np.ndarray:
    return read_clip(data, ending, view(**choices), np.random.default_rng(0))


def expected(stamps: list[float], start: float, frames: int, fps: float) -> list[int]:
    instants = start + np.arange(frames) / fps
    return (np.searchsorted(np.array(stamps), instants + 0.0005, side="right") - 1).tolist()


# time


@pytest.mark.parametrize("form", FORMS)
def test_each_frame_is_found_at_its_time(form: str) -> None:
    data = video(even(40), **FORMS[form])
    assert [clip_at(data, (index + 0.5) / 40)[0] for index in range(40)] == list(range(40))
    assert clip_at(data, 0.999999) == [39]


@pytest.mark.parametrize("fps", [8, 7.5, 30, 24000 / 1001])
def test_clips_follow_the_wished_rate(fps: float) -> None:
    stamps = even(60)
    data = video(stamps)
    spare = 2 - 10 / fps
    for place in (0.0, 0.3, 0.5, 0.99):
        assert clip_at(data, place, 11, fps) == expected(stamps, place * spare, 11, fps)
    assert index_of(read(data, frames=11, fps=fps)) == expected(stamps, spare / 2, 11, fps)


@pytest.mark.parametrize("form", ["mp4", "matroska", "webm"])
def test_variable_frame_rates_go_by_time_stamps(form: str) -> None:
    gaps = np.random.default_rng(1).choice([0.02, 0.035, 0.15, 0.4], 40)
    stamps = [round(float(stamp), 3) for stamp in np.concatenate([[0], np.cumsum(gaps)])]
    data = video(stamps, form, codec="libvpx-vp9" if form == "webm" else "libx264")
    with streams._open_video(io.BytesIO(data)) as opened:
        spare = opened.span()[1] - 10 / 8
    for place in np.linspace(0, 0.99999, 9):
        assert clip_at(data, place, 11) == expected(stamps, place * spare, 11, 8)


def test_time_need_not_begin_at_zero() -> None:
    for form in ("matroska", "mp4", "mpegts"):
        data = video([5 + stamp for stamp in even(40)], form)
        assert [clip_at(data, (index + 0.5) / 40)[0] for index in (0, 1, 20, 39)] == [0, 1, 20, 39]


def test_edit_lists_leave_out_the_beginning() -> None:
    data = media_files.trimmed(video(even(60)), 0.5)
    assert probe(data, ".mp4").seconds == pytest.approx(1.5, abs=0.01)
    assert clip_at(data, 0.0)[0] == 15 and clip_at(data, 0.999)[0] == 59
    assert clip_at(data, 0.0, 11) == expected(even(60), 0.5, 11, 8)


def test_the_end_of_a_matroska_video_is_found_without_reading_all_of_it() -> None:
    rng = np.random.default_rng(0)
    silent = video(even(60), size=(128, 128), paint=lambda index, size: rng.integers(0, 256, (*size, 3), np.uint8))
    file = io.BytesIO()
    with av.open(io.BytesIO(silent)) as source, av.open(file, "w", format="matroska") as container:
        pictures = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = pictures
                container.mux(packet)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 24_000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    data = file.getvalue()
    with streams._open_video(io.BytesIO(data)) as opened:
        assert opened.container.duration > 2_900_000  # that of the sound
        assert opened.span() == (0, pytest.approx(2, abs=0.002))
    read = 0

    class Counted(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            nonlocal read
            part = super().read(size)
            read += len(part)
            return part

    with streams._open_video(Counted(data)) as opened:
        read = 0
        opened.span()
    assert 0 < read < len(data) / 2


def test_random_places_are_spread_and_repeatable() -> None:
    data = video(even(60))
    draw = lambda seed: index_of(read_clip(data, ".mp4", view(3, 10, random=True), np.random.default_rng(seed)))  # noqa: E731
    starts = [draw(seed)[0] for seed in range(30)]
    assert starts == [draw(seed)[0] for seed in range(30)]
    assert min(starts) < 10 and max(starts) > 43 and len(set(starts)) > 15


@pytest.mark.parametrize(("form", "ending"), [("GIF", ".gif"), ("WebP", ".webp")])
def test_animations_go_by_their_durations(form: str, ending: str) -> None:
    data = media_files.animation(form, [100, 300, 50, 250, 100])
    clip = read_clip(data, ending, view(8, 10, random=True), Fixed(0.0))
    assert index_of(clip) == [0, 1, 1, 1, 2, 3, 3, 4] or index_of(clip) == [0, 1, 1, 1, 2, 3, 3, 3]
    assert index_of(read_clip(data, ending, view(random=True), Fixed(0.99))) == [4]
    assert probe(data, ending) == (5, pytest.approx(6.25), 32, 24, pytest.approx(0.8))


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = streams._Video.decode

    def counting(*arguments: object) -> object:
        for pair in original(*arguments):
            decoded.append(pair)
            yield pair

    monkeypatch.setattr(streams._Video, "decode", counting)
    data = video(even(300), paint=lambda index, size: media_files.grey(index % 60, size))
    for place in (0.0, 0.5, 0.999):
        decoded.clear()
        assert clip_at(data, place, 11) == [index % 60 for index in expected(even(300), place * 8.75, 11, 8)]
        assert 38 <= len(decoded) < 60


# the picture


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_colours_follow_matrix_and_range(matrix: str, full: bool) -> None:
    colours = [(200, 40, 40), (40, 180, 60), (30, 60, 220), (235, 235, 235), (0, 0, 0), (255, 255, 255), (250, 220, 10)]
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    planes = np.zeros((96, 16 * len(colours)), np.uint8)
    for index, colour in enumerate(np.array(colours) / 255):
        y = colour @ (red, 1 - red - blue, blue)
        u, v = (colour[2] - y) / (2 - 2 * blue), (colour[0] - y) / (2 - 2 * red)
        y, u, v = (y * 255, u * 255 + 128, v * 255 + 128) if full else (y * 219 + 16, u * 224 + 128, v * 224 + 128)
        planes[:64, 16 * index : 16 * index + 16] = round(y)
        for plane, level in ((planes[64:80], u), (planes[80:], v)):
            plane.reshape(32, -1)[:, 8 * index : 8 * index + 8] = round(level)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = planes.shape[1], 64, "yuv420p"
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = 1 if matrix == "bt709" else 6
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    clip = read(file.getvalue(), size=(32, planes.shape[1] // 2))
    assert np.abs(clip[0, 16, 4::8].astype(int) - colours).max() <= 2


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_stand_upright(degrees: int, mirrored: bool) -> None:
    data = video(even(3), size=(32, 64), paint=media_files.corners, turn=(degrees, mirrored))
    shown = np.rot90(media_files.corners(0, (32, 64)), degrees // 90)  # counter-clockwise
    shown = shown[:, ::-1] if mirrored else shown
    assert probe(data, ".mp4")[2:4] == (shown.shape[1], shown.shape[0])
    clip = read(data, size=shown.shape[:2])[0]
    for y in (8, -8):
        for x in (8, -8):
            assert np.abs(clip[y, x].astype(int) - shown[y, x]).max() < 40


def test_photographs_stand_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    data = media_files.picture(media_files.corners(0, (32, 64)), exif=exif)
    assert probe(data, ".png") == (1, 0, 32, 64, 0)
    assert np.array_equal(read(data, ".png", size=(64, 32))[0], np.rot90(media_files.corners(0, (32, 64)), -1))


def test_all_frames_of_a_file_are_upright_with_square_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (128, 96)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "a.mp4").write_bytes(video(even(5), size=(96, 128), turn=(90, False)))
    (tmp_path / "wide.mp4").write_bytes(video(even(3), size=(48, 32), aspect=Fraction(3, 1)))
    assert reader.read_video(tmp_path / "a.mp4").frames.shape == (5, 128, 96, 3)
    assert reader.read_video(tmp_path / "a.jpg").frames.shape == (1, 128, 96, 3)
    assert reader.read_video(tmp_path / "wide.mp4").frames.shape == (3, 48, 96, 3)
    assert not reader.read_video(tmp_path / "clear.png").frames.any()


def test_pixels_become_square() -> None:
    data = video(even(3), size=(48, 32), paint=media_files.corners, aspect=Fraction(3, 1))
    assert probe(data, ".mp4")[2:4] == (96, 48)
    clip = read(data, size=(48, 96))[0]
    assert np.abs(clip[8, [40, 56]].astype(int) - [(255, 0, 0), (0, 255, 0)]).max() < 40


@pytest.mark.parametrize("ending", [".mp4", ".png"])
def test_scaling_down_is_antialiased(ending: str) -> None:
    board = np.indices((96, 192)).sum(axis=0) % 2 * 255
    board = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    data = media_files.picture(board) if ending == ".png" else video([0], size=(96, 192), paint=lambda *_: board)
    clip = read(data, ending, size=(32, 32))
    assert np.abs(clip[:, 2:-2, 2:-2].astype(int) - 127).max() < 8


def test_the_short_side_is_scaled_and_the_middle_cut() -> None:
    stripes = np.zeros((48, 144, 3), np.uint8)
    stripes[:, 48:96] = 200
    for data, ending in (
        (video([0], size=(48, 144), paint=lambda *_: stripes), ".mp4"),
        (media_files.picture(stripes), ".png"),
    ):
        clip = read(data, ending, size=(24, 24))
        assert clip[:, :, 2:-2].min() > 190
        left = read_clip(data, ending, view(size=(24, 24), random=True), Fixed(0.0))
        assert left[:, :, :-2].max() < 10


def test_random_cuts_and_mirrors() -> None:
    ramp = np.repeat(np.arange(0, 192, 2, dtype=np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
    data = video(even(30), size=(48, 96), paint=lambda *_: ramp)
    shot = ClipView(1, 8, (48, 48), random=True, flip=True)
    clips = [read_clip(data, ".mp4", shot, np.random.default_rng(seed))[0, 24, :, 0].astype(int) for seed in range(40)]
    mirrored = [clip[0] > clip[-1] for clip in clips]
    assert 8 <= sum(mirrored) <= 32 and len({int(clip.min()) // 4 for clip in clips}) > 10
    assert not any(
        (row := read_clip(data, ".mp4", view(size=(48, 48), random=True), np.random.default_rng(seed))[0, 24, :, 0])[0]
        > row[-1]
        for seed in range(10)
    )


def test_transparency_is_black() -> None:
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:, :8, 3], pixels[:, 8:, 3] = 0, 255
    still = read(media_files.picture(pixels), ".png")[0]
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("qtrle", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "argb"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    moving = read(file.getvalue(), ".mov")[0]
    for picture in (still, moving):
        assert (picture[:, :8] == 0).all() and (picture[:, 8:] == 200).all()


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (17, 31), (480, 270)])
def test_sizes_large_small_and_odd(size: tuple[int, int]) -> None:
    data = video(even(12), "matroska", codec="ffv1", pixels="bgr0", size=size)
    assert probe(data, ".mkv")[2:4] == size[::-1]
    assert index_of(read(data, frames=3, size=(33, 47))) == expected(even(12), 0.075, 3, 8)


def test_sixteen_bit_and_palette_pictures() -> None:
    ramp = np.tile(np.linspace(0, 65535, 16).astype(np.uint16), (16, 1))
    assert np.abs(read(media_files.picture(ramp), ".png")[0, 8, :, 0].astype(int) - (ramp[8] >> 8)).max() <= 1
    grey = media_files.picture(media_files.grey(30, (16, 16))[..., 0])
    assert index_of(read(grey, ".png")) == [30]


def test_what_a_clip_is() -> None:
    clip = read(video(even(30)), frames=5, size=(20, 24))
    assert clip.shape == (5, 20, 24, 3) and clip.dtype == np.uint8 and clip.flags.c_contiguous and clip.flags.writeable


@pytest.mark.parametrize(
    "choices",
    [
        {"frames": 0},
        {"fps": 0},
        {"fps": float("nan")},
        {"size": (0, 8)},
        {"flip": True, "random": False},
    ],
)
def test_views_that_cannot_be(choices: dict[str, object]) -> None:
    with pytest.raises(PhenakiError, match=f"^{next(iter(choices))} "):
        ClipView(**{"frames": 1, "fps": 8, "size": (8, 8), "random": True, **choices})


# broken media


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (media_files.empty, "cannot be read"),
        (media_files.text, "cannot be read: Invalid data"),
        (media_files.without_index, "cannot be read: Invalid data"),
        (media_files.sound, "has no video stream"),
        (media_files.unknown_codec, "no decoder"),
        (lambda: media_files.truncated(0.2), "corrupt|ends at|no key frame"),
        (lambda: video([0]), r"0\.0\d s of video; 11 frames at 8 fps need more than 1\.25 s"),
        (lambda: video(even(27)), r"0\.90 s of video; 11 frames at 8 fps need more than 1\.25 s"),
        (lambda: video([0, 5], gop=1), "a single frame"),
        (lambda: video(even(60), size=(10, 4000)), "4000x10 pixels; a crop of 16x16"),
        (lambda: media_files.jumping_forward(30, 3600), r"jump from 0\.97 to 3601|a single frame"),
        (lambda: media_files.sound(cover=True), "has no video stream"),
    ],
)
def test_broken_media_are_told_in_words(make: Callable[[], bytes], said: str) -> None:
    with pytest.raises(BadSample, match=said):
        read(make(), frames=11)


def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.mp4").write_bytes(video(even(30)))
    with pytest.raises(BadSample, match="cannot be read"):
        read(media_files.playlist("secret.mp4"))


def test_damage_counts_where_it_is() -> None:
    whole = video(even(60), paint=media_files.noise)
    clean = read_clip(whole, ".mp4", view(5, random=True), Fixed(0.0))
    damaged = media_files.corrupted(whole, range(25, 40), "zeros")
    assert np.array_equal(read_clip(damaged, ".mp4", view(5, random=True), Fixed(0.0)), clean)
    with pytest.raises(BadSample, match=r"corrupt (at|after) (0\.[789]|1\.)"):
        read_clip(damaged, ".mp4", view(5, random=True), Fixed(0.7))
    with pytest.raises(BadSample, match="corrupt|ends at"):
        read_clip(media_files.truncated(0.6, 60), ".mp4", view(5, random=True), Fixed(0.99))
    assert np.array_equal(read_clip(media_files.truncated(0.6, 60), ".mp4", view(5, random=True), Fixed(0.0)), clean)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_a_frame_that_others_build_on_must_be_whole(codec: str) -> None:
    options = {"x265-params": "log-level=none:pools=1:bframes=0"} if codec == "libx265" else {"bf": "0"}
    data = media_files.corrupted(
        video(even(40), codec=codec, paint=media_files.noise, options=options), [13, 14, 15], "zeros"
    )
    assert len(read_clip(data, ".mp4", view(random=True), Fixed(0.1))) == 1
    with pytest.raises(BadSample, match="corrupt"):  # frame 20, which is whole itself, follows from frames 13 to 15
        read_clip(data, ".mp4", view(random=True), Fixed(20.5 / 40))


def test_jumping_time_stamps() -> None:
    forward = media_files.jumping_forward(30, 20)
    assert clip_at(forward, 0.0, 5) == expected(even(60), 0, 5, 8)
    with pytest.raises(BadSample, match=r"jump from 0\.97 to 21\.00 s"):
        clip_at(forward, 0.5 / 21, 5)
    back = media_files.jumping_back()
    assert clip_at(back, 0.0, 5) == expected(even(60), 0, 5, 8)
    with pytest.raises(BadSample, match=r"jump back from 1\.97 to 0\.00 s"):
        clip_at(back, 0.999, 5)


def test_nothing_is_shown_before_the_first_frame() -> None:
    with pytest.raises(BadSample, match=r"no key frame before 1\.00 s, so nothing is visible at 0\.50 s"):
        clip_frames([(1.0, "a"), (1.1, "b"), (1.2, None)], np.array([0.5]))


def test_the_last_frame_is_shown_to_the_end() -> None:
    gaps = np.random.default_rng(20).choice([0.02, 0.035, 0.15, 0.4], 15)  # frames reordered, durations left behind
    data = video([round(float(stamp), 3) for stamp in np.concatenate([[0], np.cumsum(gaps)])])
    assert [clip_at(data, place) for place in (0.98, 0.99, 0.9999)] == [[15], [15], [15]]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_promises_too_much_is_not_begun() -> None:
    header = bytearray(media_files.picture(media_files.grey(0, (8, 8)), "BMP"))
    header[18:26] = (11_000).to_bytes(4, "little") * 2
    with pytest.raises(BadSample, match="11000x11000 pixels, more than the limit of 100,000,000"):
        read(bytes(header), ".bmp")


def test_still_pictures_are_no_clips() -> None:
    for form, ending in (("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("WebP", ".webp")):
        data = media_files.picture(media_files.grey(20, (20, 30)), form)
        assert index_of(read(data, ending)) == [20]
        with pytest.raises(StillPicture, match="a still picture, where 11 frames are requested"):
            read(data, ending, frames=11)
    pages = io.BytesIO()  # as phones write them, with a preview behind the picture
    sizes = [Image.fromarray(media_files.grey(20, (20, 30))), Image.fromarray(media_files.grey(5, (10, 15)))]
    sizes[0].save(pages, "MPO", save_all=True, append_images=sizes[1:])
    with pytest.raises(StillPicture):
        read(pages.getvalue(), ".jpg", frames=2)
    for data in (media_files.empty(), media_files.text(), media_files.picture(media_files.noise(0, (64, 64)))[:200]):
        for ending in (".png", ".gif", ".webp"):
            with pytest.raises(BadSample, match="cannot be read"):
                read(data, ending)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts", ".gif", ".webp", ".png"])
def test_whatever_bytes_are_broken_it_is_a_bad_sample(ending: str) -> None:
    whole = {
        ".mp4": lambda: video(even(30), paint=media_files.noise),
        ".mkv": lambda: video(even(30), "matroska", paint=media_files.noise),
        ".ts": lambda: video(even(30), "mpegts", paint=media_files.noise),
        ".gif": lambda: media_files.animation("GIF", [120] * 9),
        ".webp": lambda: media_files.animation("WebP", [120] * 9),
        ".png": lambda: media_files.picture(media_files.noise(0, (48, 64))),
    }[ending]()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(30):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, min(len(data), 4000), 8)] = rng.integers(0, 256, 8)
        data = data.tobytes()[: rng.integers(1, len(data)) if rng.random() < 0.3 else None]
        for use in (
            lambda data=data: read_clip(data, ending, view(random=True), rng),
            lambda data=data: probe(data, ending),
        ):
            try:
                use()
            except BadSample:
                refused += 1
    assert refused > 5


def test_names_in_odd_letters_do_no_harm() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode())
    assert read(file.getvalue().replace(b"TITLE", b"\xff\xfe\xff\xfe\xff")).shape == (1, 16, 16, 3)


# files


def test_a_path_is_as_good_as_its_bytes(tmp_path: Path) -> None:
    data = video(even(30))
    (tmp_path / "ein Vogel \U0001f426.mp4").write_bytes(data)
    assert np.array_equal(read(tmp_path / "ein Vogel \U0001f426.mp4", frames=3), read(data, frames=3))
    assert probe(tmp_path / "ein Vogel \U0001f426.mp4", ".mp4") == probe(data, ".mp4") != ()
    with pytest.raises(BadSample, match="cannot be read: No such file"):
        read(tmp_path / "missing.mp4")
    with pytest.raises(BadSample, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files by /proc")
def test_nothing_stays_open_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole, damaged = tmp_path / "whole.mp4", tmp_path / "damaged.mp4"
    whole.write_bytes(video(even(60), paint=media_files.noise))
    damaged.write_bytes(media_files.corrupted(whole.read_bytes(), range(10, 60)))
    gc.disable()  # so that nothing but the code itself closes them
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            read(whole, frames=5)
            with pytest.raises(BadSample):
                read(damaged, frames=11)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
    assert capfd.readouterr() == ("", "")


def test_facts() -> None:
    assert probe(video(even(60)), ".mp4") == (60, pytest.approx(30, rel=1e-3), 64, 48, pytest.approx(2, rel=1e-3))
    assert probe(video(even(60), "matroska", paint=media_files.noise)[:9000], ".mkv").frames < 40
    assert probe(video([0, 0.5, 0.6, 1.9, 2]), ".mp4").frames == 5
    with pytest.raises(BadSample, match="no video stream"):
        probe(media_files.sound(), ".mp4")


@pytest.mark.parametrize("form", ["mp4", "avi", "flv"])
def test_a_file_that_is_cut_off_has_no_facts_where_its_packets_tell(form: str) -> None:
    options = {"tick": Fraction(1, 30)} if form == "avi" else {}
    front = {"container_options": {"movflags": "+faststart"}} if form == "mp4" else {}
    whole = video(even(60), form, paint=media_files.noise, **options, **front)
    assert probe(whole, f".{form}").frames == 60
    with pytest.raises(BadSample, match=r"^it is corrupt or truncated at (0\.[4-9]|1\.[0-6])\d s$"):
        probe(whole[: len(whole) // 2], f".{form}")


@pytest.mark.parametrize(
    ("file", "ending"), [(media_files.animation("GIF", [100] * 5), ".gif"), (video(even(5)), ".mp4")]
)
def test_frames_keep_their_content_when_the_next_one_is_read_before_they_are_rendered(file: bytes, ending: str) -> None:
    *timed, (end, last) = list(reader.read_frames(file, ending, (24, 32)))
    assert index_of(np.stack([render() for _, render in timed])) == [0, 1, 2, 3, 4]
    assert last is None and end > timed[-1][0]
