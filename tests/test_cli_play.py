"""`phenaki play` and `phenaki generate --replay` from the command line."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from helpers.playing import PROMPT, Client, bidirectional_model, causal_model
from phenaki.cli import app
from phenaki.cli.replay import read_recording
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.media.metadata import read_metadata
from phenaki.media.writer import write_video
from phenaki.play import recording as play_recording
from phenaki.play.recording import Recorder, Recording, pack_ids
from phenaki.play.recording import save as save_mp4
from phenaki.tokenizers import CViViT

pytest.importorskip("fastapi", reason="fastapi is not installed")


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return " ".join(result.output.split())


@pytest.fixture
def base(tokenizer: CViViT, text_encoder: WordEncoder, generator: MaskedTransformer) -> Components:
    return Components(generator, tokenizer, text_encoder)


@pytest.fixture
def folder(base: Components, tmp_path: Path) -> Path:
    causal_model(base).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def save(base: Components, folder: Path, steps: int) -> tuple[bytes, np.ndarray, Recording]:
    """An mp4 of a causal model's world in which things happen, the frames in it, and its recording."""
    model = causal_model(base)
    recording = Recording(str(folder), "", PROMPT, 3, {})
    world = recording.open(model)
    recorder, clips = Recorder(recording, world, model.fps), []
    for number in range(steps):
        if number == 2:
            world.press("left")
        if number == 5:
            world.say("a green square"), world.adjust("guidance_scale", 1.0)
        clips.append(world.step())
        recorder.add(clips[-1])
    return save_mp4(*recorder.snapshot(), model.fps), np.concatenate(clips), recording


def test_a_picture_that_is_none_is_refused(base: Components) -> None:
    with pytest.raises(PhenakiError, match="the picture is not in base64"):
        Recording("x", "", PROMPT, 3, {}, picture="abc").open(causal_model(base))


def test_a_saved_video_is_repeated_bit_by_bit(base: Components, folder: Path, tmp_path: Path) -> None:
    data, frames, _ = save(base, folder, steps=12)
    saved, again = tmp_path / "saved.mp4", tmp_path / "again.mp4"
    saved.write_bytes(data)
    recording = read_recording(saved)
    assert (recording.frames, recording.skipped, len(recording.events)) == (23, 0, 3)
    assert recording.sha256 == hashlib.sha256(frames).hexdigest()
    result = run("generate", "--replay", saved, "-o", again)
    assert result.exit_code == 0 and "23 frames of 128x128" in result.output
    assert again.read_bytes() == data


def test_the_last_minute_is_repeated_alone(
    base: Components, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phenaki.play.recording.SECONDS", 1.0)
    data, frames, _ = save(base, folder, steps=12)
    (tmp_path / "saved.mp4").write_bytes(data)
    recording = read_recording(tmp_path / "saved.mp4")
    assert (recording.frames, recording.skipped) == (8, 15)
    again = np.concatenate(list(recording.frames_of(causal_model(base))))
    assert np.array_equal(again, frames[-8:])


def test_a_saved_video_is_decoded_from_its_ids(
    base: Components, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, frames, _ = save(base, folder, steps=8)
    (tmp_path / "saved.mp4").write_bytes(data)
    recording, model = read_recording(tmp_path / "saved.mp4"), causal_model(base)
    changed = replace(recording, seed=recording.seed + 1, events=())
    assert np.array_equal(np.concatenate(list(changed.frames_of(model))), frames)
    sampled = np.concatenate(list(replace(recording, ids="").frames_of(model)))
    assert np.array_equal(sampled, frames)
    monkeypatch.setattr(play_recording, "_MOST_IDS", 2**11)
    for ids in ("AAAA", pack_ids(bytes(10)), pack_ids(b"\1" * 4 * 16), pack_ids(bytes(2**12))):
        with pytest.raises(PhenakiError, match="the ids of this recording are damaged"):
            next(replace(recording, ids=ids).frames_of(model))
    with pytest.raises(PhenakiError, match="its ids end .* frames before its video"):
        list(replace(recording, frames=1000).frames_of(model))


def test_frames_that_differ_are_reported(base: Components, folder: Path, tmp_path: Path) -> None:
    data, frames, recording = save(base, folder, steps=3)
    (tmp_path / "saved.mp4").write_bytes(data)
    recording = read_recording(tmp_path / "saved.mp4")
    write_video(tmp_path / "other.mp4", frames, 8, replace(recording, sha256="0" * 64).metadata)
    with pytest.warns(UserWarning, match="not bit for bit those of"):
        assert run("generate", "--replay", tmp_path / "other.mp4", "-o", tmp_path / "again.gif").exit_code == 0
    assert read_metadata(tmp_path / "again.gif")["play"]["prompt"] == PROMPT


def test_what_cannot_be_repeated_is_named(base: Components, folder: Path, tmp_path: Path) -> None:
    saved, other = tmp_path / "saved.mp4", tmp_path / "plain.mp4"
    data, frames, _ = save(base, folder, steps=3)
    saved.write_bytes(data)
    write_video(other, frames, 8)
    bidirectional_model(base).save_pretrained(tmp_path / "scenes")
    out = tmp_path / "again.mp4"
    for arguments, sentence in (
        (("--replay", other), "does not say how it was made"),
        (("--replay", tmp_path / "none.mp4"), "no file or folder"),
        (("--replay", saved, "a prompt"), "leave out prompts and settings"),
        (("--replay", saved, "--seed", 3), "leave out --seed"),
        (("--replay", saved, "--model", tmp_path / "scenes"), "played with another model"),
    ):
        assert sentence in refused(run("generate", *arguments, "-o", out))
        assert not out.exists()


def test_a_taken_port_is_named_with_a_free_one(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refused(run("play", folder, "--port", port))
    assert f"port {port} is taken: --port " in sentence and "is free" in sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "There is no model or folder 'nowhere'"),
        (("--host", "203.0.113.7"), "'203.0.113.7' is no address of this machine"),
        (("--host", "no.such.name.invalid"), "no address of this machine"),
        (("--sessions", 0), "0"),
        (("--port", 70_000), "70000"),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments: tuple[object, ...], sentence: str) -> None:
    assert sentence in refused(run("play", *arguments))


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'phenaki[play]'" in refused(run("play", folder))


def test_ctrl_c_ends_the_sessions(folder: Path) -> None:
    command = [sys.executable, "-m", "phenaki", "play", str(folder), "--sessions", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert "1 session at once" in server.stdout.readline()
        address = server.stdout.readline().split()[0].removeprefix("http://")
        with urllib.request.urlopen(f"http://{address}/") as page:
            assert b"phenaki" in page.read()
        with Client(address) as client:
            client.start()
            client.step()
            server.send_signal(signal.SIGINT)
            assert client.wait_for("end")["message"] == "the server was stopped"
        out, errors = server.communicate(timeout=120)
    assert (out, errors, server.returncode) == ("stopped\n", "", 0)
