"""`phenaki reconstruct`: its output, any length in bounded memory, and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from phenaki.cli import app
from phenaki.cli.reconstruct import _unique_names
from phenaki.core.components import save_component
from phenaki.evaluation.files import COLUMNS, _ContactSheet, reconstruct_stream
from phenaki.evaluation.pixels import psnr
from phenaki.media.convert import to_float
from phenaki.media.reader import read_frames, read_video
from phenaki.media.resample import resample
from phenaki.media.writer import write_video
from phenaki.tokenizers import CViViT
from phenaki.tokenizers.streaming import CHUNK

SHARED = Path(__file__).parent.parent / "examples" / "clips"


@pytest.fixture(autouse=True)
def work(tokenizer: CViViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, with a tiny model, and no weights of other networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHENAKI_CACHE", str(tmp_path / "cache"))
    save_component(tokenizer, "model")


def run(*arguments: object) -> Result:
    command = ["reconstruct", *arguments, "--model", "model", "-o", "out"]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in command])


def frames_of(count: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    texture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return np.stack([np.roll(texture, 2 * shift, 1) for shift in range(count)])


def write_raw(path: Path, frames: np.ndarray, fps: int = 8) -> None:
    """Frames as they are, of any size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


# ---- output


def test_a_clip_is_written_next_to_its_reconstruction(tokenizer: CViViT) -> None:
    write_raw(Path("a.mkv"), frames_of(11))
    result = run("a.mkv")
    assert result.exit_code == 0, result.output
    assert "LPIPS is skipped" in result.stderr
    clip = read_video("out/a.mp4")
    assert (clip.frames.shape, clip.fps) == ((11, 256, 8 * (2 * 32 + 2), 3), 8)
    sheet = np.asarray(Image.open("out/a.png"))
    assert sheet.shape == (2 * 32 + 2 * 4, 11 * 32 + 10 * 2, 3)
    originals = sheet[:32].reshape(32, -1, 3)
    assert np.array_equal(originals[:, :32], frames_of(1)[0])
    metrics = json.loads(Path("out/metrics.json").read_text())
    video = to_float(frames_of(11))
    (expected,) = psnr((tokenizer.decode(tokenizer.encode(video)) - video).square())
    (found,) = metrics["files"]
    assert found["psnr"] == pytest.approx(expected, abs=1e-4)
    assert (found["file"], found["frames"], found["lpips"]) == ("a.mkv", 11, None)
    assert {"frames": 11, "size": [32, 32], "crop": "center"}.items() <= metrics["protocol"].items()
    assert f"{expected:.2f} dB" in result.output


def test_folders_pictures_and_equal_names(clips: Path) -> None:
    Path("more").mkdir()
    shutil.copy(clips / "1.mp4", "more/1.mp4")
    Image.fromarray(frames_of(1, (64, 96))[0]).save("more/picture.png")
    result = run("more", clips / "1.mp4", "--frames", 9)
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("out").glob("*.mp4")} == {"1.mp4", "picture.mp4", "1_2.mp4"}
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert [each["frames"] for each in metrics["files"]] == [9, 1, 9]
    assert metrics["mean"]["psnr"] == pytest.approx(np.mean([each["psnr"] for each in metrics["files"]]))
    assert "mean" in result.output
    assert _unique_names([Path("a/x.mp4"), Path("x_2.mp4"), Path("x.mp4")]) == ["x", "x_2", "x_3"]


@pytest.mark.parametrize("count", [1, 2, 11, 12, 25, 30])
def test_all_frames_of_any_length(tokenizer: CViViT, count: int) -> None:
    write_raw(Path("long.mkv"), frames_of(count))
    result = run("long.mkv", "--all-frames")
    assert result.exit_code == 0, result.output
    assert len(read_video("out/long.mp4").frames) == count
    (found,) = json.loads(Path("out/metrics.json").read_text())["files"]
    video = to_float(frames_of(count + (count - 1) % 2))
    video[:, :, count:] = video[:, :, count - 1 : count]
    (expected,) = psnr((tokenizer.decode(tokenizer.encode(video)) - video)[:, :, :count].square())
    assert found["frames"] == count
    assert found["psnr"] == pytest.approx(expected, abs=0.05)


def test_frames_are_read_as_they_are_needed(tokenizer: CViViT) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield frames_of(1)[0]

    pairs = reconstruct_stream(tokenizer, endless())
    for number in range(1, 4):
        clip, decoded = next(pairs)
        assert decoded.shape == (1, 3, len(clip), 32, 32)
        assert taken == number * 2 * CHUNK - 1
    sheet = _ContactSheet()
    for _ in range(5000):
        sheet.add((frames_of(1)[0], frames_of(1)[0]))
        assert len(sheet.pairs) < 4 * COLUMNS
    assert sheet.image().shape[1] == COLUMNS * 34 - 2


@pytest.mark.parametrize(("rate", "wanted"), [(8, 8.0), (24, 8.0), (4, 8.0), (30, 12.5)])
def test_the_frame_rate_is_the_requested_one(rate: int, wanted: float) -> None:
    frames = np.zeros((rate * 2, 16, 16, 3), np.uint8) + np.arange(rate * 2, dtype=np.uint8)[:, None, None, None]
    write_raw(Path("v.mkv"), frames, rate)
    found = [int(frame[0, 0, 0]) for frame in resample(read_frames(Path("v.mkv"), ".mkv", (16, 16)), wanted)]
    assert found == [int(index / wanted * rate + 0.01) for index in range(int(2 * wanted))]


def test_the_clips_of_the_examples_are_accepted() -> None:
    result = run(SHARED)
    assert result.exit_code == 0, result.output
    assert [each["frames"] for each in json.loads(Path("out/metrics.json").read_text())["files"]] == [11] * 14


# ---- bad input


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not list(Path("out").glob("*"))  # neither halves nor empty metrics
    return result.stderr


def test_bad_files_are_a_sentence_each() -> None:
    write_raw(Path("short.mkv"), frames_of(2))
    assert "'short.mkv': 0.25 s of video (2 frames) are too short for a clip of 11 frames" in refused(run("short.mkv"))
    write_raw(Path("dot.mkv"), frames_of(20, (1, 1)))
    for more in ((), ("--all-frames",)):
        assert "'dot.mkv': its frames of 1x1 pixels are smaller than one patch" in refused(run("dot.mkv", *more))
        write_raw(Path("strip.mkv"), frames_of(12, (16, 8192)))
        assert "'strip.mkv': 8192x16 pixels; a crop of 32x32 would show less" in refused(run("strip.mkv", *more))
    with av.open("sound.mkv", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert "'sound.mkv': it has no video stream" in refused(run("sound.mkv"))
    Path("text.mp4").write_text("no video")
    assert "'text.mp4': it cannot be read" in refused(run("text.mp4"))
    assert "there is no file or folder 'missing.mp4'" in refused(run("missing.mp4"))
    Path("empty").mkdir()
    assert "'empty' holds no videos or pictures" in refused(run("empty"))
    assert "nearest are 9 and 11" in refused(run("short.mkv", "--frames", 10))
    assert "there is no file or folder 'vgg'" in refused(run("short.mkv", "--lpips", "vgg"))
    Path("out").rmdir()
    Path("out").touch()
    assert "'out' is a file: give a folder" in refused(run("short.mkv"))


def test_one_bad_file_does_not_stop_the_others() -> None:
    Path("bad.mp4").write_text("no video")
    write_video("good.mp4", frames_of(12), 8)
    result = run("bad.mp4", "good.mp4")
    assert result.exit_code == 2
    assert "'bad.mp4': it cannot be read" in result.stderr
    assert {path.name for path in Path("out").iterdir()} == {"good.mp4", "good.png", "metrics.json"}
    assert torch.isfinite(torch.tensor(json.loads(Path("out/metrics.json").read_text())["mean"]["psnr"]))
