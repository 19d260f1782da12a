"""The recorder of Doom: the same again from the same seed, and files that belong together."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from phenaki.cli import app
from phenaki.core.errors import PhenakiError
from phenaki.media.reader import read_video
from phenaki.worlds.doom import (
    ACTIONS,
    FPS,
    POSES,
    TURN,
    Episode,
    Observation,
    Recording,
    RecordingConfig,
    VisibleObject,
    list_episodes,
    play,
    record_doom,
    recording,
    timed_captions,
)


@pytest.fixture
def engine() -> None:
    pytest.importorskip("vizdoom", reason="vizdoom is not installed: pip install 'phenaki[doom]'")


def config(out: Path, **other: object) -> RecordingConfig:
    """Two episodes of a few seconds to train on."""
    settings = {"scenarios": ("maze", "corridor"), "train": 4 / 60, "new_starts": 0.0, "seconds": (2.0, 3.0)}
    return RecordingConfig(out, **(settings | other))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_again_from_the_same_seed_and_not_from_another(engine: None, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        record_doom(config(tmp_path / name, seed=seed))
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    video = "train/maze_0000.mp4"
    assert contents(tmp_path / "one")[video] != contents(tmp_path / "other")[video]


def test_an_interrupted_recorder_resumes(engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, stopped = tmp_path / "complete", tmp_path / "stopped"
    record_doom(config(complete))
    write = recording._write_bytes

    def interrupted(path: Path, content: bytes) -> None:
        if path.name == "corridor_0000.mp4":
            raise KeyboardInterrupt  # its actions exist, its video does not
        write(path, content)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(recording, "_write_bytes", interrupted)
        record_doom(config(stopped))
    assert "train/corridor_0000.actions.npy" in contents(stopped)
    first = (stopped / "train/maze_0000.mp4").stat().st_mtime_ns
    record_doom(config(stopped))
    assert contents(stopped) == contents(complete)
    assert (stopped / "train/maze_0000.mp4").stat().st_mtime_ns == first


def test_more_minutes_change_no_existing_episode() -> None:
    short = list_episodes(config(Path("x")))
    long = list_episodes(config(Path("x"), train=1.0))
    assert len(short) < len(long) and set(short) <= set(long)


def test_files_of_an_episode_belong_together(engine: None, tmp_path: Path) -> None:
    report = record_doom(config(tmp_path, scenarios=("maze",)))
    spec = json.loads((tmp_path / "train/dataset.json").read_text())
    assert spec["actions"] == {"names": list(ACTIONS), "kinds": ["button"] * len(ACTIONS)}
    videos = sorted((tmp_path / "train").glob("*.mp4"))
    assert report.episodes == {"train": len(videos)}
    for video in videos:
        clip = read_video(video)
        actions, poses = np.load(video.with_suffix(".actions.npy")), np.load(video.with_suffix(".poses.npy"))
        starts = [caption["start"] for caption in json.loads(video.with_suffix(".captions.json").read_text())]
        assert math.isclose(clip.fps, FPS) and clip.frames.shape[1:] == (120, 160, 3)
        assert actions.shape == (len(clip.frames), len(ACTIONS)) and not actions[0].any()
        assert poses.shape == (len(clip.frames), len(POSES))
        assert starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < len(poses) / FPS


def test_a_row_of_actions_acts_between_its_frame_and_the_previous_one(engine: None) -> None:
    played = play(Episode("train", "acid_hall", 0, 120), config(Path("x")))
    turned = (np.diff(played.poses[:, 3]) + 180) % 360 - 180
    held = dict(zip(ACTIONS, played.actions[1:].T.astype(float), strict=True))
    np.testing.assert_allclose(turned, TURN * (held["turn_left"] - held["turn_right"]), atol=0.05)
    # and so do the pictures: they change where the player turns
    changed = np.abs(np.diff(played.frames.astype(float), axis=0)).mean((1, 2, 3))
    assert changed[np.abs(turned) > 1].min() > changed[(played.actions[1:] == 0).all(1)].mean()


def test_unseen_scenarios_are_in_no_other_split() -> None:
    splits = list_episodes(config(Path("x"), unseen_maps=0.2, unseen_scenarios=("map05",), new_starts=0.1))
    assert {episode.scenario for episode in splits if episode.split == "unseen_maps"} == {"map05"}
    assert {episode.scenario for episode in splits if episode.split != "unseen_maps"} == {"maze", "corridor"}


def observe(x: float = 0.0, angle: float = 0.0, reach: float = 300.0, *objects: VisibleObject) -> Observation:
    return Observation(np.zeros((2, 2, 3), np.uint8), (x, 0, 0, angle, 100, 50, 0, reach), np.full(16, reach), objects)


def hold(count: int, *names: str) -> np.ndarray:
    return np.array([[name in names for name in ACTIONS]] * count, np.uint8)


def test_captions_name_scenario_view_and_activity_and_change_with_them() -> None:
    walking = [observe(30.0 * frame) for frame in range(16)]
    turning = [observe(480, 15.0 * frame, 90.0) for frame in range(32)]
    shooting = [observe(480, 0, 90.0, VisibleObject("DoomImp", 0.0, 0.05)) for _ in range(16)]
    actions = np.concatenate([hold(16, "forward"), hold(32, "turn_left"), hold(16, "shoot")])
    assert timed_captions("the maze", walking + turning + shooting, actions) == [
        (0.0, "the maze, a room: the player walks forward"),
        (16 / FPS, "the maze, a wall in front: the player turns around"),
        (48 / FPS, "the maze, a demon: the player shoots"),
    ]


def test_dark_plain_and_motionless_recordings_are_dull() -> None:
    textured = np.random.default_rng(0).integers(256, size=(6, 6, 3), dtype=np.uint8)

    def is_dull(frame: np.ndarray, speed: float, count: int = 60) -> bool:
        frames = np.stack([frame] * count + [textured] * (60 - count))
        poses = np.zeros((60, 8), np.float32)
        poses[:, 0] = speed * np.arange(60)
        return recording.is_dull(Recording(frames, np.zeros((60, 8)), poses, []))

    red = np.full_like(textured, (160, 20, 20))
    assert not is_dull(textured, 20.0)
    assert is_dull(textured // 64, 20.0)
    assert is_dull(red, 20.0, count=8) and not is_dull(red, 20.0, count=4)
    assert is_dull(textured, 0.1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"scenarios": ("mase",)}, "no scenario 'mase'. Did you mean 'maze'"),
        ({"scenarios": ()}, "at least one scenario"),
        ({"unseen_scenarios": ("maze",)}, "maze is named as both"),
        ({"unseen_maps": 3.0}, "3 minutes of unseen maps need unseen scenarios"),
        ({"train": math.nan}, "train nan"),
        ({"seconds": (5.0, 2.0)}, "The shortest episode, 5 s, exceeds the longest, 2 s"),
        ({"seconds": (0.0, 2.0)}, "seconds"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(PhenakiError, match=message):
        config(Path("x"), **settings)


def test_without_vizdoom_the_command_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "record", "doom", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert 'pip install "phenaki[doom]"' in result.output
    assert not (tmp_path / "out").exists()


def test_recordings_of_different_seeds_do_not_mix(engine: None, tmp_path: Path) -> None:
    record_doom(config(tmp_path, scenarios=("maze",)))
    with pytest.raises(PhenakiError, match="holds a recording with seed 0, not 1: name another folder"):
        record_doom(config(tmp_path, scenarios=("maze",), seed=1))


def test_a_full_disk_leaves_no_partial_episode(engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(PhenakiError, match="the disk is full"):
        patched.setattr("phenaki.core.files.os.fsync", full)
        record_doom(config(tmp_path))
    assert not contents(tmp_path)
    assert record_doom(config(tmp_path)).episodes["train"]
