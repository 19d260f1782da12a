"""The recorder of ViZDoom: the same again from the same seed, and what it writes fits together."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from phenaki.errors import PhenakiError
from phenaki.video import read_video
from phenaki.worlds import doom
from phenaki.worlds.doom import (
    ACTIONS,
    FPS,
    TURN,
    Episode,
    RecordingConfig,
    Seen,
    View,
    captions,
    episodes,
    record_doom,
)


@pytest.fixture
def engine() -> None:
    pytest.importorskip("vizdoom", reason="vizdoom is not installed: pip install 'phenaki[doom]'")


def config(out: Path, **other: object) -> RecordingConfig:
    """Two episodes of a few seconds for training."""
    settings = {"scenarios": ("maze", "corridor"), "train": 4 / 60, "new_starts": 0.0, "seconds": (2.0, 3.0)}
    return RecordingConfig(out, **(settings | other))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_again_from_the_same_seed_and_not_from_another(engine: None, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        record_doom(config(tmp_path / name, seed=seed))
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_a_killed_recorder_goes_on(engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_doom(config(tmp_path / "whole"))
    writer = doom.open_writer

    def killed(path: Path, *others: object):
        if "corridor" in str(path):
            raise KeyboardInterrupt  # its actions are there, its video is not
        return writer(path, *others)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(doom, "open_writer", killed)
        record_doom(config(tmp_path / "stopped"))
    assert len(list((tmp_path / "stopped/train").glob("*.mp4"))) < len(list((tmp_path / "whole/train").glob("*.mp4")))
    first = (tmp_path / "stopped/train/maze_0000.mp4").stat().st_mtime_ns
    record_doom(config(tmp_path / "stopped"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert (tmp_path / "stopped/train/maze_0000.mp4").stat().st_mtime_ns == first


def test_more_minutes_change_no_episode_that_is_there() -> None:
    short = episodes(config(Path("x")))
    long = episodes(config(Path("x"), train=1.0))
    assert len(short) < len(long) and set(short) <= set(long)


def test_files_of_an_episode_fit_together(engine: None, tmp_path: Path) -> None:
    report = record_doom(config(tmp_path, scenarios=("maze",)))
    spec = json.loads((tmp_path / "dataset.json").read_text())
    assert [action["name"] for action in spec["actions"]] == list(ACTIONS)
    videos = sorted((tmp_path / "train").glob("*.mp4"))
    assert report.episodes == {"train": len(videos)}
    for video in videos:
        clip = read_video(video)
        actions, poses = np.load(video.with_suffix(".actions.npy")), np.load(video.with_suffix(".poses.npy"))
        starts = [caption["start"] for caption in json.loads(video.with_suffix(".captions.json").read_text())]
        assert len(clip.frames) == len(actions) == len(poses)
        assert actions.shape[1] == len(ACTIONS) and not actions[0].any()
        assert starts[0] == 0 and all(a < b for a, b in zip(starts, starts[1:], strict=False))
        assert starts[-1] < len(poses) / FPS


def test_a_row_of_actions_acts_between_its_frame_and_the_one_before(engine: None) -> None:
    recording = doom.play(Episode("train", "acid_hall", 0, 120), config(Path("x")))
    turned = np.diff(recording.poses[:, 3])
    turned = (turned + 180) % 360 - 180
    held = {name: recording.actions[1:, index].astype(float) for index, name in enumerate(ACTIONS)}
    np.testing.assert_allclose(turned, TURN * (held["turn_left"] - held["turn_right"]), atol=0.05)
    # the pictures too: they change where the player turns, the frame after it
    changed = np.abs(np.diff(recording.frames.astype(float), axis=0)).mean((1, 2, 3))
    assert changed[np.abs(turned) > 1].min() > changed[(recording.actions[1:] == 0).all(1)].mean()


def test_unseen_scenarios_are_in_no_other_split(tmp_path: Path) -> None:
    asked = config(tmp_path, unseen=0.2, unseen_scenarios=("map05",), new_starts=0.1)
    splits = {(episode.split, episode.scenario) for episode in episodes(asked)}
    assert {scenario for split, scenario in splits if split == "unseen_maps"} == {"map05"}
    assert {scenario for split, scenario in splits if split != "unseen_maps"} == {"maze", "corridor"}


def view(x: float = 0.0, angle: float = 0.0, room: float = 300.0, *objects: Seen) -> View:
    return View(np.zeros((2, 2, 3), np.uint8), (x, 0, 0, angle, 100, 50, 0, room), np.full(16, room), objects)


def pressed(count: int, *names: str) -> np.ndarray:
    return np.array([[name in names for name in ACTIONS]] * count, np.uint8)


def test_captions_say_place_sight_and_deed_and_change_with_them() -> None:
    walking = [view(30.0 * frame) for frame in range(16)]
    turning = [view(480, 15.0 * frame, 90.0) for frame in range(32)]
    shooting = [view(480, 0, 90.0, Seen("DoomImp", 0.0, 0.05)) for _ in range(16)]
    actions = np.concatenate([pressed(16, "forward"), pressed(32, "turn_left"), pressed(16, "shoot")])
    assert captions("the maze", walking + turning + shooting, actions) == [
        (0.0, "the maze, a room: the player walks forward"),
        (16 / FPS, "the maze, a wall in front: the player turns around"),
        (48 / FPS, "the maze, a demon: the player shoots"),
    ]


def test_a_recording_in_the_dark_or_on_one_spot_is_not_kept() -> None:
    def recording(brightness: int, speed: float) -> doom.Recording:
        poses = np.zeros((60, 8), np.float32)
        poses[:, 0] = speed * np.arange(60)
        return doom.Recording(np.full((60, 4, 4, 3), brightness, np.uint8), np.zeros((60, 8)), poses, [])

    assert not doom._dull(recording(80, 20.0))
    assert doom._dull(recording(2, 20.0))
    assert doom._dull(recording(80, 0.1))


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhenakiError, match="no scenario 'mase'. Did you mean 'maze'"):
        config(tmp_path, scenarios=("mase",))
    with pytest.raises(PhenakiError, match="maze cannot be both"):
        config(tmp_path, unseen_scenarios=("maze",))
    with pytest.raises(PhenakiError, match="unseen 3 minutes need scenarios"):
        config(tmp_path, unseen=3.0)
    with pytest.raises(PhenakiError, match="train nan must be"):
        config(tmp_path, train=math.nan)
    with pytest.raises(PhenakiError, match="seconds 5 to 2 must rise"):
        config(tmp_path, seconds=(5.0, 2.0))
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(PhenakiError, match=r'pip install "phenaki\[doom\]"'):
        record_doom(config(tmp_path))


def test_another_recording_is_not_mixed_in(engine: None, tmp_path: Path) -> None:
    record_doom(config(tmp_path, train=0.0))
    with pytest.raises(PhenakiError, match="holds a recording with seed 0, not 1: take another folder"):
        record_doom(config(tmp_path, train=0.0, seed=1))


def test_a_full_disk_is_a_sentence_and_leaves_no_half_episode(
    engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_doom(config(tmp_path, train=0.0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(PhenakiError, match="the disk is full"):
        patched.setattr("phenaki.files.os.fsync", full)
        record_doom(config(tmp_path))
    assert set(contents(tmp_path)) == {"dataset.json"}
    assert record_doom(config(tmp_path)).episodes["train"]
