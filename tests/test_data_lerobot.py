"""Robot data of LeRobot is packed: episodes by their time stamps, actions right to the frame, tasks as captions."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.robots import CAMERA, FPS, OTHER, TASKS, episode, lengths, write_table, write_v2, write_v3
from phenaki.cli import app
from phenaki.core.actions import ActionSpec
from phenaki.core.config import override
from phenaki.core.errors import PhenakiError
from phenaki.data.cuts import Cutting
from phenaki.data.lerobot import LeRobot
from phenaki.data.packing import PackConfig, pack
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import read_shard
from phenaki.data.storage import expand
from phenaki.media.reader import read_video
from phenaki.pipeline import Phenaki
from phenaki.tokenizers import CViViT
from phenaki.training.generator import train_generator
from phenaki.training.recipes import GENERATOR_RECIPES

WRITERS = {"v2.1": write_v2, "v3.0": write_v3}


def packed(root: Path, out: Path, **options: Any) -> dict[str, EncodedSample]:
    """The samples by episode, and piece of it."""
    config = PackConfig((root,), str(out), layout="lerobot", camera=CAMERA, validation=0.2, processes=1, **options)
    pack(config, progress=False)
    items = [item for url in expand(f"{out}/*/*.tar") for item, _ in read_shard(url, actions=True)]
    return {f"{item.metadata['source']}@{item.metadata['start']:.3f}": item for item in items}


def frames_of(item: EncodedSample, tmp_path: Path) -> np.ndarray:
    (tmp_path / "clip.mp4").write_bytes(item.media)
    return read_video(tmp_path / "clip.mp4").frames


@pytest.mark.parametrize("version", WRITERS)
def test_episodes_are_packed_with_actions_right_to_the_frame(tmp_path: Path, version: str) -> None:
    root = WRITERS[version](tmp_path / "robot", 5)
    found = sorted(packed(root, tmp_path / "shards").values(), key=lambda item: item.metadata["source"])
    assert [item.metadata["source"] for item in found] == [f"episode_{index:06d}" for index in range(5)]
    spec = json.loads((tmp_path / "shards" / "dataset.json").read_text())["actions"]
    assert spec == {"names": ["down", "right"], "kinds": ["level", "level"]}
    for index, (item, frames) in enumerate(zip(found, lengths(5), strict=True)):
        made, seen = episode(index, frames), frames_of(item, tmp_path)
        assert seen.shape == made["video"].shape
        assert np.abs(seen.astype(int) - made["video"]).mean() < 3  # no frame of a neighbour
        table = np.load(io.BytesIO(item.actions))
        assert np.array_equal(table[1:], made["action"][:-1]) and not table[0].any()
        assert item.metadata["fps"] == FPS
        if index % 2:
            assert [(caption.start, caption.text) for caption in item.timed_captions] == [
                (0, TASKS[0]),
                (frames // 2 / FPS, TASKS[1]),
            ]
        else:
            assert item.captions == (TASKS[0],)


@pytest.mark.parametrize("version", WRITERS)
def test_pieces_of_episodes_have_their_rows(tmp_path: Path, version: str) -> None:
    root = WRITERS[version](tmp_path / "robot", 3)
    found = packed(root, tmp_path / "shards", cutting=Cutting(seconds=0.6), states=True)
    begin = 0.0
    for index, frames in enumerate(lengths(3)):
        made = episode(index, frames)
        rows = np.concatenate([made["action"], made["observation.state"]], axis=1)
        rows[1:, :2], rows[0] = made["action"][:-1], 0
        for piece in range(2):
            start = 6 * piece
            offset = begin if version == "v3.0" else 0.0
            item = found[f"episode_{index:06d}@{offset + start / FPS:.3f}"]
            expected = rows[start : start + 6].copy()
            expected[0] = 0
            assert np.allclose(np.load(io.BytesIO(item.actions)), expected)
            seen = frames_of(item, tmp_path)
            assert np.abs(seen.astype(int) - made["video"][start : start + 6]).mean() < 3
        begin += frames / FPS


def test_what_is_resampled_is_averaged(tmp_path: Path) -> None:
    found = packed(write_v3(tmp_path / "robot", 2), tmp_path / "shards", cutting=Cutting(fps=5.0))
    made = episode(0, 13)
    table = np.load(io.BytesIO(found["episode_000000@0.000"].actions))
    assert np.allclose(table[1:], made["action"][:12].reshape(6, 2, 2).mean(1))


def test_other_cameras_and_names(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "robot", 2)
    assert LeRobot(root, OTHER)[1].media.parts[-3] == OTHER
    assert LeRobot(root, CAMERA, states=True).actions == ActionSpec(
        ("down", "right", "state.down", "state.right"), ("level",) * 4
    )
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"]["names"] = None
    (root / "meta/info.json").write_text(json.dumps(info))
    assert LeRobot(root, CAMERA).actions.names == ("action_0", "action_1")


@pytest.mark.parametrize(
    ("change", "camera", "message"),
    [
        ({}, "", f"name a camera: it has {CAMERA}, {OTHER}"),
        ({}, "observation.images.left", f"has no camera 'observation.images.left': it has {CAMERA}"),
        ({"codebase_version": "v1.6"}, CAMERA, "of version v1.6: v2 and v3 can be read"),
        ({"video_path": "../{video_key}.mp4"}, CAMERA, "leaves the data set"),
        ({"video_path": "{camera}.mp4"}, CAMERA, "cannot be filled in: 'camera'"),
        ({"features": {}}, CAMERA, "it has no video"),
        ({"features": []}, CAMERA, "meta' says cannot be read: AttributeError"),
        ({"video_path": "{file_index:0999999999d}"}, CAMERA, "is no name with a width"),
        (
            {"features": {CAMERA: {"dtype": "video"}, "action": {"shape": [10**9]}}},
            CAMERA,
            "says that action has 1,000,000,000 numbers",
        ),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, change: dict[str, Any], camera: str, message: str) -> None:
    root = write_v3(tmp_path / "robot", 1)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | change))
    with pytest.raises(PhenakiError, match=message):
        LeRobot(root, camera)


def test_other_folders_and_broken_episodes(tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="is no LeRobot data set: it has no meta/info.json"):
        LeRobot(tmp_path)
    root = write_v3(tmp_path / "piped", 2)
    table = next((root / "meta/episodes").rglob("*.parquet"))
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(PhenakiError, match="it is a pipe, not a regular file"):
        LeRobot(root, CAMERA)
    root = write_v2(tmp_path / "robot", 4)
    (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1")
    write_table(root / "data/chunk-000/episode_000003.parquet", {"action": [[0.0, 0.0]]})
    (root / f"videos/chunk-000/{CAMERA}/episode_000002.mp4").unlink()
    result = CliRunner().invoke(
        app, ["data", "pack", "--from", "lerobot", str(root), str(tmp_path / "out"), "--camera", CAMERA]
    )
    assert result.exit_code == 0
    refused = json.loads((tmp_path / "out" / "report.json").read_text())["refused"]
    assert sorted(refused) == ["episode_000001", "episode_000002", "episode_000003"]
    assert "has no column" in refused["episode_000003"]
    assert "cannot be read as Parquet" in refused["episode_000001"]
    for words, message in ((["--from", "lerobt"], "no layout 'lerobt'"), (["--camera", "x"], "are of LeRobot data")):
        result = CliRunner().invoke(app, ["data", "pack", *words, str(root), str(tmp_path / "other")])
        assert result.exit_code == 2 and message in str(result.output), result.output


@pytest.mark.slow
def test_twenty_episodes_train_a_model_that_is_played(tmp_path: Path, tokenizer: CViViT) -> None:
    found = packed(write_v3(tmp_path / "robot", 20), tmp_path / "shards")
    assert len(found) == 20
    changes = [f"data.sources=[{{uri: {tmp_path / 'shards'}}}]", "run.steps=3", "data.batch=2", "data.workers=0"]
    recipe = override(GENERATOR_RECIPES["causal_debug"](), changes)
    model = Phenaki.from_pretrained(train_generator(recipe, tmp_path / "run", tokenizer))
    assert model.generator.config.actions.names == ("down", "right")
    world = model.play(TASKS[0], seed=1, steps=2)
    world.move("down", 2.0)
    assert [next(world).shape[0] for _ in range(3)] == [1, 2, 2]
