"""What is written can be read again, and what cannot be written leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from phenaki.core.errors import PhenakiError
from phenaki.media import writer
from phenaki.media.convert import to_float, to_uint8
from phenaki.media.montage import contact_sheet, side_by_side, upscale
from phenaki.media.reader import read_video
from phenaki.media.writer import Fragments, encode_mp4, open_writer, remux_mp4, write_image, write_video


def moving_square(frames: int = 11, height: int = 32, width: int = 48) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (20, 30, 90), np.uint8)
    for t in range(frames):
        clip[t, 8:20, 2 + 2 * t : 14 + 2 * t] = (230, 200, 40)
    return clip


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def luma(clip: np.ndarray) -> np.ndarray:
    """What mp4 keeps at full resolution. Colour has half of it, so hard edges cost far more there than the codec does,
    least where chroma is repeated rather than interpolated and the edge lies between two chroma samples."""
    return clip.astype(float) @ (0.299, 0.587, 0.114)


# tensors


def test_levels_survive_the_way_to_float_and_back() -> None:
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 6, 3), dtype=np.uint8)
    values = to_float(clips)
    assert values.shape == (2, 3, 5, 4, 6) and values.dtype == torch.float32 and values.is_contiguous()
    assert values.min() >= 0 and values.max() <= 1
    assert np.array_equal(to_uint8(values), clips)
    assert np.array_equal(to_uint8(values[1]), clips[1])
    assert torch.equal(to_float(torch.from_numpy(clips[1])), values[1:])


def test_values_outside_are_clamped_and_rounded() -> None:
    values = torch.tensor([-3.0, 0.4 / 255, 0.6 / 255, 7.0]).view(1, 1, 1, 4).expand(3, 1, 1, 4)
    assert to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 1, 255]
    assert to_uint8(values.bfloat16()).dtype == np.uint8


def test_shapes_and_types_are_checked() -> None:
    with pytest.raises(PhenakiError, match=r"not \(2, 4, 4, 3\)"):
        to_uint8(torch.zeros(2, 4, 4, 3))
    with pytest.raises(PhenakiError, match=r"not torch.float32 \(2, 4, 4, 3\)"):
        to_float(torch.zeros(2, 4, 4, 3))
    with pytest.raises(PhenakiError, match=r"\(3, 2, 4, 4\)"):
        to_float(np.zeros((3, 2, 4, 4), np.uint8))


# round trips


@pytest.mark.parametrize("fps", [8.0, 24000 / 1001])
@pytest.mark.parametrize("frames", [1, 11])
def test_mp4_round_trip(tmp_path: Path, fps: float, frames: int) -> None:
    clip = moving_square(frames)
    write_video(tmp_path / "a.mp4", clip, fps)
    back = read_video(tmp_path / "a.mp4")
    assert back.frames.shape == clip.shape and back.frames.dtype == np.uint8
    assert psnr(luma(back.frames), luma(clip)) > 40
    assert psnr(back.frames, clip) > 29 and back.fps == pytest.approx(fps, rel=1e-4)
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("height", [64, 720])
@pytest.mark.parametrize("way", ["mp4", "fragments", "clip"])
def test_mp4_says_what_its_colours_are(tmp_path: Path, height: int, way: str) -> None:
    """Players that are told nothing guess: for 720 lines and more they take another matrix."""
    clip = np.full((3, height, 64, 3), (40, 200, 40), np.uint8)
    path = tmp_path / "a.mp4"
    if way == "mp4":
        write_video(path, clip, 8)
    elif way == "clip":
        path.write_bytes(encode_mp4(clip, Fraction(8), (height, 64), crf=18, g=12))
    else:
        with open(tmp_path / "a.part.mp4", "wb") as file:
            Fragments(file, 8).add(clip)
        remux_mp4(tmp_path / "a.part.mp4", path)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (6, 1, 1, 13)
        y, u, v = (int(np.frombuffer(plane, np.uint8)[0]) for plane in frame.planes)
    assert (y, u, v) == pytest.approx((131, 81, 69), abs=2)  # of BT.601; of BT.709, y would be 149
    assert np.abs(read_video(path).frames.astype(int) - (40, 200, 40)).max() < 4


@pytest.mark.skipif(os.name != "posix", reason="colons name drives")
def test_names_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("a:b")
    for name in (
        "10:30.mp4",
        "file:x.mp4",
        "http:x.mp4",
        "pipe:1.mp4",
        "a:b/c.mp4",
        "%03d.mp4",
        "concat:a|b.mp4",
        "-.mp4",
    ):
        write_video(name, moving_square(3), 8)
        assert len(read_video(name).frames) == 3
        with open(f"{name}.part", "wb") as file:
            Fragments(file, 8).add(moving_square(2))
        remux_mp4(f"{name}.part", name)
        assert len(read_video(name).frames) == 2
        os.remove(name)
    write_video("10:30.gif", moving_square(3), 8)
    write_video("c:/", moving_square(3), 8)
    assert len(read_video("10:30.gif").frames) == len(read_video("c:").frames) == 3


def test_mp4_plays_in_browsers(tmp_path: Path) -> None:
    write_video(tmp_path / "a.MP4", moving_square(), 8)
    with av.open(str(tmp_path / "a.MP4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    data = (tmp_path / "a.MP4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it is there


@pytest.mark.parametrize(("height", "width"), [(31, 48), (32, 47), (31, 47), (17, 17)])
def test_odd_sizes_are_padded(tmp_path: Path, height: int, width: int) -> None:
    clip = moving_square(3, height, width)
    write_video(tmp_path / "a.mp4", clip, 8)
    back = read_video(tmp_path / "a.mp4").frames
    assert back.shape == (3, height + height % 2, width + width % 2, 3)
    assert psnr(luma(back[:, :height, :width]), luma(clip)) > 40
    assert psnr(back[:, :height, :width], clip) > 24


@pytest.mark.parametrize("axis", [0, 1])
def test_colour_stays_where_it_is(tmp_path: Path, axis: int) -> None:
    """Half a pixel between the chroma positions of writer and reader costs 8 dB here."""
    wave = 40 * np.sin(2 * np.pi * np.mgrid[:64, :96][axis] / 16)
    clip = np.stack([np.stack((128 + wave, 128 + 0 * wave, 128 - wave), -1)] * 3).round().astype(np.uint8)
    write_video(tmp_path / "a.mp4", clip, 8)
    assert psnr(read_video(tmp_path / "a.mp4").frames, clip) > 42


@pytest.mark.parametrize("fps", [4.0, 8.0, 12.0, 30.0])
@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animations_keep_frames_and_rate(tmp_path: Path, ending: str, fps: float) -> None:
    clip = moving_square(17)
    write_video(tmp_path / f"a.{ending}", clip, fps)
    back = read_video(tmp_path / f"a.{ending}")
    assert back.frames.shape == clip.shape and back.fps == pytest.approx(fps, rel=0.03)
    assert psnr(back.frames, clip) > 40
    with Image.open(tmp_path / f"a.{ending}") as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_frames_that_do_not_change_are_kept(tmp_path: Path, ending: str) -> None:
    clip = moving_square(16)[[0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 8, 8]]
    write_video(tmp_path / f"a.{ending}", clip, 8)
    back = read_video(tmp_path / f"a.{ending}")
    assert back.frames.shape == clip.shape and psnr(back.frames, clip) > 40


def test_webp_is_lossless(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
    write_video(tmp_path / "a.webp", clip, 8)
    assert np.array_equal(read_video(tmp_path / "a.webp").frames, clip)


@pytest.mark.parametrize("name", ["frames", "frames/", "frames.v1/"])
def test_folder_of_frames(tmp_path: Path, name: str) -> None:
    clip = moving_square(12)
    write_video(f"{tmp_path}/{name}", clip, 8)
    assert sorted(os.listdir(tmp_path / name))[::11] == ["frame_0001.png", "frame_0012.png"]
    assert np.array_equal(read_video(tmp_path / name).frames, clip)
    write_video(f"{tmp_path}/{name}", clip[:5], 8)
    assert np.array_equal(read_video(tmp_path / name).frames, clip[:5])
    assert len(os.listdir(tmp_path)) == 1


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(tmp_path / f"f{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert read_video(tmp_path).frames[:, 0, 0, 0].tolist() == [1, 2, 10]


def test_png_is_a_contact_sheet(tmp_path: Path) -> None:
    clip = moving_square(11)
    write_video(tmp_path / "a.png", clip, 8)
    assert np.array_equal(read_video(tmp_path / "a.png").frames[0], contact_sheet(clip))


def test_one_picture(tmp_path: Path) -> None:
    picture = moving_square(1)[0]
    writer.write_image(tmp_path / "a.png", picture)
    assert np.array_equal(read_video(tmp_path / "a.png").frames, picture[None])
    with pytest.raises(PhenakiError, match="does not exist"):
        writer.write_image(tmp_path / "missing" / "a.png", picture)


# streaming


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp", ".png", "/"])
def test_frames_in_pieces_give_the_same_file(tmp_path: Path, ending: str) -> None:
    clip = moving_square(9)
    write_video(f"{tmp_path}/whole{ending}", clip, 8)
    with open_writer(f"{tmp_path}/pieces{ending}", 8, (32, 48)) as file:
        for start in range(0, 9, 4):
            file.add(clip[start : start + 4])
        assert file.frames == 9 and not os.path.exists(f"{tmp_path}/pieces{ending}")
    whole, pieces = (read_video(f"{tmp_path}/{name}{ending}") for name in ("whole", "pieces"))
    assert np.array_equal(whole.frames, pieces.frames) and whole.fps == pieces.fps


def test_a_long_mp4_is_on_the_disk_before_its_end(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with open_writer(tmp_path / "a.mp4", 8, (64, 64)) as file:
        for _ in range(200):
            file.add(generator.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) > 500_000
    assert len(read_video(tmp_path / "a.mp4").frames) == 400


# nothing half-written


@pytest.mark.parametrize("raised", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp", ".png", "/"])
def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, ending: str, raised: BaseException) -> None:
    full = isinstance(raised, OSError)
    expected = PhenakiError if full else type(raised)
    with pytest.raises(expected, match="disk is full" if full else None):
        with open_writer(f"{tmp_path}/a{ending}", 8, (32, 48)) as file:
            file.add(moving_square(4))
            raise raised
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", "/"])
def test_a_disk_that_fills_up(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_to_bytes", full)
    with pytest.raises(PhenakiError, match="the disk is full"):
        write_video(f"{tmp_path}/a{ending}", moving_square(4), 8)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_under_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = av.open

    def on_a_full_disk(file: str, *args: object, **options: object) -> object:
        os.unlink(file)
        os.symlink("/dev/full", file)
        return opened(file, *args, **options)

    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(av, "open", on_a_full_disk)
    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(PhenakiError, match="the disk is full"):
        write_video(tmp_path / "a.mp4", moving_square(4), 8)
    assert os.listdir(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["missing/a.mp4", "missing/a.gif", "missing/frames/", "missing/a.png"])
def test_a_missing_folder_is_named_before_any_frame_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(PhenakiError, match="missing' does not exist"), open_writer(tmp_path / name, 8, (8, 8)):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("name", "fps", "said"),
    [
        (
            "a.mpeg",
            8,
            r"ending '\.mpeg', which cannot be written\. There are \.mp4, \.gif, \.webp, \.png, and .* folder",
        ),
        ("a.avi", 8, r"There are \.mp4"),
        ("a.mp4", 0, "between 0.01 and 1000 frames per second, not 0"),
        ("a.gif", float("nan"), "per second, not nan"),
        ("a.gif", 200, "GIF shows at most 100 frames per second, not 200"),
        ("a.gif", 60, "GIF takes at most 50 frames per second, not 60"),
        ("a.webp", 100, "WebP takes at most 90 frames per second, not 100"),
        ("taken.mp4", 8, "it is a folder"),
        ("file", 8, "it is a file"),
    ],
)
def test_names_and_rates_that_cannot_be(tmp_path: Path, name: str, fps: float, said: str) -> None:
    (tmp_path / "taken.mp4").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PhenakiError, match=said):
        write_video(tmp_path / name, moving_square(2), fps)
    assert sorted(os.listdir(tmp_path)) == ["file", "taken.mp4"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PhenakiError, match="holds other things than frames.*thesis"):
        write_video(f"{tmp_path}/", moving_square(2), 8)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_wrong_frames_are_refused(tmp_path: Path) -> None:
    for clip in (np.zeros((2, 8, 9, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(PhenakiError, match=r"takes clips uint8 \(T, 8, 8, 3\)"):
            with open_writer(tmp_path / "a.mp4", 8, (8, 8)) as file:
                file.add(clip)
    for name in ("a.mp4", "a.gif", "a.png", "a/"):
        with pytest.raises(PhenakiError, match="no frames to write"), open_writer(f"{tmp_path}/{name}", 8, (8, 8)):
            pass
    assert os.listdir(tmp_path) == []


# bad input


def test_what_is_no_video_is_a_sentence(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a.xyz"):
        (tmp_path / name).write_bytes(b"no pictures here")
        with pytest.raises(PhenakiError, match=f"{name}': it cannot be read"):
            read_video(tmp_path / name)
    with pytest.raises(PhenakiError, match="no file or folder"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(PhenakiError, match="no file or folder"):
        read_video("n" * 5000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhenakiError, match="holds no pictures"):
        read_video(tmp_path / "empty")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(PhenakiError, match="has no video stream"):
        read_video(tmp_path / "a.wav")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a.webp"):
        noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
        write_video(tmp_path / name, noise, 8)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:100])
        with pytest.raises(PhenakiError, match=name):
            read_video(tmp_path / name)


def test_frames_of_different_sizes_are_named(tmp_path: Path) -> None:
    write_video(f"{tmp_path}/a/", moving_square(3), 8)
    Image.new("RGB", (5, 7)).save(tmp_path / "a" / "frame_0002.png")
    with pytest.raises(PhenakiError, match=r"frame_0002\.png' is 5x7, but the first one of its folder is 48x32"):
        read_video(tmp_path / "a")


# for the eye


def test_letters_that_the_font_lacks_are_seen_to_be_missing() -> None:
    def sheet(label: str) -> np.ndarray:
        return contact_sheet(np.zeros((1, 16, 300, 3), np.uint8), labels=[label])

    assert np.array_equal(sheet("Über die “Brücke” – 猫"), sheet("Uber die “Brucke” ? ?"))
    printable = [chr(code) for code in range(33, 127)]
    drawn = {sheet(letter).tobytes() for letter in [*printable, *"‘’“”⁄"]}
    assert len(drawn) == len(printable) + 5  # each has a shape of its own


def test_contact_sheet_holds_the_frames_in_their_places() -> None:
    clip = moving_square(11)
    sheet = contact_sheet(clip, columns=4, gap=2)
    assert sheet.shape == (3 * 32 + 2 * 2, 4 * 48 + 3 * 2, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet[34:66, 50:98], clip[5])
    assert (sheet[68:, 3 * 50 :] == 255).all()  # the twelfth place is empty
    assert np.array_equal(contact_sheet(clip[:1]), clip[0])
    picked = contact_sheet(clip, columns=3, frames=3)
    assert np.array_equal(picked, contact_sheet(clip[[0, 5, 10]], columns=3))


def test_contact_sheet_prints_labels_and_wraps_them() -> None:
    clips = [moving_square(4), moving_square(4)]
    plain = contact_sheet(clips, columns=4)
    short, long = (
        contact_sheet(clips, columns=4, labels=[label, "b"]) for label in ("a red circle", "a red circle " * 9)
    )
    assert plain.shape[0] < short.shape[0] < long.shape[0] and plain.shape[1] == long.shape[1]
    assert (short[:14] < 128).any() and np.array_equal(short[-32:, :48], clips[1][0])
    assert contact_sheet(clips, labels=["", "ein grüner Stern, 日本語 \U0001f3a5"]).shape[2] == 3
    with pytest.raises(PhenakiError, match="2 clips needs one label for each, not 1"):
        contact_sheet(clips, labels=["a"])


def test_side_by_side_and_upscale() -> None:
    a, b = moving_square(5, width=20), moving_square(5, width=30)
    both = side_by_side([a, b], gap=3)
    assert both.shape == (5, 32, 53, 3)
    assert (
        np.array_equal(both[:, :, :20], a) and np.array_equal(both[:, :, 23:], b) and (both[:, :, 20:23] == 255).all()
    )
    assert np.array_equal(side_by_side([a]), a)
    with pytest.raises(PhenakiError, match="one length and one height"):
        side_by_side([a, b[:3]])
    large = upscale(a, 3)
    assert large.shape == (5, 96, 60, 3) and np.array_equal(large[:, 1::3, 2::3], a)


def test_no_temporary_files_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.gif", "c.webp", "d.png", "e/"):
        write_video(name, moving_square(3), 8)
    assert sorted(os.listdir()) == ["a.mp4", "b.gif", "c.webp", "d.png", "e"]
    shutil.rmtree("e")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    """numpy's NDArray, the annotation, is an alias of a type from 2.5 on."""
    with pytest.raises(PhenakiError, match="picture 1e-320: pass"):
        write_image(tmp_path / "a.png", 1e-320)
