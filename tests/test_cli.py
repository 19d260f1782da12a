"""The command line: what it writes, and that bad input is a sentence, exit code 2 and no file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from helpers.sampling import sampling_config
from phenaki.cli import app
from phenaki.conditioning import WordEncoder
from phenaki.core import hub
from phenaki.generators import MaskedTransformer
from phenaki.media.reader import read_video
from phenaki.pipeline import Phenaki
from phenaki.tokenizers import CViViT


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    """The sentence, without the line breaks and frames of typer's usage errors."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    return Phenaki(tokenizer, generator, text_encoder, sampling_config(steps=2, prime_frames=3))


@pytest.fixture(autouse=True)
def packaged(model: Phenaki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model under the name of the released one; the folder that commands run in is empty."""
    model.save_pretrained(tmp_path / "models" / "shapes-64")
    monkeypatch.setattr(hub, "ZOO", tmp_path / "models")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "models" / "shapes-64"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phenaki.pipeline.model.rollout", lambda *_, **__: pytest.fail("the work began"))


# ---- generate


def test_generate_writes_what_python_makes(model: Phenaki) -> None:
    arguments = ["a red circle", "now it moves", "--frames", 5, "--num", 2, "--seed", 4, "--steps", 3, "--fps", 4]
    result = run("generate", *arguments, "-o", "a.webp", "--scale", 2)
    assert result.exit_code == 0, result.output
    assert "a.webp: 9 frames of 132x64 at 4 per second, seed 4" in result.output
    clip = read_video("a.webp")
    made = model.generate(["a red circle", "now it moves"], frames=5, samples=2, seed=4, steps=3)
    assert clip.fps == pytest.approx(4)
    assert np.array_equal(clip.frames[:, ::2, : 2 * 32 : 2], made.clips[0])
    assert np.array_equal(clip.frames[:, ::2, -2 * 32 :: 2], made.clips[1])
    assert os.listdir() == ["a.webp"]


@pytest.mark.parametrize("out", ["a.mp4", "a.gif", "a.png", "frames"])
def test_generate_by_ending(out: str) -> None:
    assert run("generate", "a red circle", "-o", out, "--frames", 3).exit_code == 0
    assert os.listdir() == [out]
    assert len(read_video(out).frames) == (1 if out == "a.png" else 3)


def test_an_mp4_grows_while_frames_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second scene is made, the frames of the first have left the program: memory does not grow."""
