"""Whatever is typed ends in a sentence and in bounded time: no limit is missing, no pipe is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import phenaki
from helpers.media_files import even, video
from phenaki.cli import app
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import MAX_SCENE_FRAMES
from phenaki.generators import Components, MaskedTransformer
from phenaki.media import writer
from phenaki.media.writer import open_writer
from phenaki.pipeline import Phenaki
from phenaki.sampling import DecodingConfig
from phenaki.tokenizers import CViViT


def said(*arguments: str | Path, data: bytes | None = None) -> str:
    """What a command that is refused says, in one line."""
    result = CliRunner().invoke(app, list(map(str, arguments)), input=data)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# magnitudes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "999999999"], "999,999,999 frames: a scene has at most 10,000"),
        (["--size", "80000x80000"], "size 80000x80000: frames have at most 16 times the pixels"),
        (["--width", "8000", "--height", "8000"], "size 8000x8000: frames have at most 16 times the pixels"),
        (["--steps", "1000000000"], "steps 1000000000 must be at least 1 and at most 1000"),
        (["--samples", "1000000"], "samples"),
        (["--upscale", "1000000"], "upscale"),
        (["--fps", "1e300"], "between 0.01 and 1000 frames per second"),
    ],
)
def test_magnitudes_are_bounded(options: list[str], message: str) -> None:
    assert message in said("generate", "a red circle", *options, "-o", "o.mp4")
    assert not os.listdir()


def test_magnitudes_are_bounded_in_python(
    tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    model = Phenaki(Components(generator, tokenizer, text_encoder))
    for options, message in (
        ({"frames": MAX_SCENE_FRAMES + 1}, "a scene has at most 10,000"),
        ({"samples": 10**9}, "1000000000 samples cannot be generated: give 1 to 1,024"),
        ({"steps": 10**9}, "at most 1000"),
        ({"size": (10**5, 10**5)}, "16 times the pixels"),
    ):
        with pytest.raises(PhenakiError, match=message):
            model.generate("a red circle", **options)
    with pytest.raises(PhenakiError, match="at most 1000"):
        DecodingConfig(steps=10**6)


def test_what_is_made_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_CLIP_PIXELS", 10 * 16 * 24)
    for ending in ("gif", "webp", "png"):
        with (
            pytest.raises(PhenakiError, match="More than 10 frames of 24x16 do not fit into memory"),
            open_writer(f"a.{ending}", 8, (16, 24)) as file,
        ):
            for _ in range(11):
                file.add(np.zeros((1, 16, 24, 3), np.uint8))
    assert not os.listdir()
    with open_writer("a.mp4", 8, (16, 24)) as file:
        file.add(np.zeros((11, 16, 24, 3), np.uint8))


# stories


def test_scenes_of_a_story_are_bounded() -> None:
    Path("frames.txt").write_text("[frames=999999999] a red circle\n")
    assert "'frames.txt', line 1: 999,999,999 frames: a scene has at most 10,000" in said(
        "generate", "--story", "frames.txt", "-o", "o.mp4"
    )
    Path("long.txt").write_text("a red circle\n" + "a red circle " * 10_000)
    assert "line 2: more than 100,000 bytes" in said("generate", "--story", "long.txt", "-o", "o.mp4")
    assert "line 1: more than 100,000 bytes" in said("generate", "--story", "-", "-o", "o.mp4", data=b"a" * 200_000)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices have names on POSIX systems alone")
@pytest.mark.timeout(240)
def test_pipes_and_devices_are_refused_and_never_waited_for() -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    for name, kind in (("pipe", "a pipe"), ("link", "a pipe"), ("/dev/zero", "a device")):
        message = said("generate", "--story", name, "-o", "o.mp4")
        assert f"it is {kind}, not a regular file" in message and "standard input" in message
        for suffix in (".mp4", ".png"):
            path = Path(f"media{suffix}")
            path.unlink(missing_ok=True)
            path.symlink_to(name)
            for command in (
                ["generate", "a red circle", "--image", path],
                ["extend", path, "a red circle"],
                ["interpolate", path, path, "a red circle"],
                ["inpaint", path, "a red circle", "--mask", path],
            ):
                assert f"it is {kind}, not a regular file" in said(*command, "-o", "o.mp4")
            assert "not a regular file" in said("info", path)


# what is no text


def test_prompts_of_other_bytes_are_refused() -> None:
    lone = os.fsdecode(b"a red \xff circle")
    assert "is not valid UTF-8 text" in said("generate", lone, "-o", "o.mp4")
    assert "is not valid Unicode text" in said("generate", "a red circle", "--negative-prompt", lone, "-o", "o.mp4")
    Path("story.txt").write_bytes(b"a red \xff circle\n")
    assert "'story.txt', line 1: not valid UTF-8" in said("generate", "--story", "story.txt", "-o", "o.mp4")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_in_any_letters_are_printed_on_any_terminal(encoding: str) -> None:
    os.mkdir("in")
    for name in ("Käfer 鳥.mp4", os.fsdecode(b"bytes \xff.mp4"), "émpty.mp4"):
        Path("in", name).write_bytes(b"" if name.startswith("é") else video(even(12 + len(name))))
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
    for command in (["pack", "in", "out", "--validation", "0"], ["inspect", "in", "--out", "seen"]):
        done = subprocess.run(
            [sys.executable, "-m", "phenaki", "data", *command], env=environment, capture_output=True, timeout=300
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        assert b"mpty.mp4" in done.stdout


# types of weights


def test_networks_are_not_converted_to_types_in_which_they_do_not_run() -> None:
    model = phenaki.load("shapes-64", device="cpu")
    before = model.tokenizer.state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(PhenakiError, match=rf"the weights of CViViT are torch.float32, not {dtype}: keep them"):
            model.tokenizer.to(dtype)
    for network in (model.generator, model.text_encoder):
        with pytest.raises(PhenakiError, match="torch.float16"):
            network.half()
    assert all(weight.dtype == before[name].dtype for name, weight in model.tokenizer.state_dict().items())
    clip = torch.rand(1, 3, 3, 64, 64)
    ids = model.tokenizer.encode(clip)
    assert torch.equal(model.tokenizer.encode(clip.double()), ids)
    assert torch.equal(torch.cat(list(model.tokenizer.encode_stream([clip.double()])), 1), ids)
    model.generator.double()  # as tests do; sampling says so
    with pytest.raises(PhenakiError, match="not torch.float64"):
        model.generate("a red circle", frames=3)
