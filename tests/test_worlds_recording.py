"""Recordings of the world of shapes: captions that switch, and an object that obeys keys."""

from __future__ import annotations

import numpy as np
import pytest

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes import ShapesDataset, ShapesWorld, check, parse_caption
from phenaki.worlds.shapes.recording import KEYS, SPEED, steer
from phenaki.worlds.shapes.scene import Scene, SceneObject

OPTIONS = {"recordings": True, "control": 0.5}


def dataset(options: dict[str, object], frames: int = 51) -> ShapesDataset:
    return ShapesDataset(options, seed=3, split="train", size=(64, 64), frames=frames)


def test_a_recording_is_the_same_at_every_access_and_begins_like_a_longer_one() -> None:
    world = ShapesWorld(5)
    first, again, longer = world.recording(2, 51, 0.5), world.recording(2, 51, 0.5), world.recording(2, 103, 0.5)
    assert first.video.shape == (51, 64, 64, 3) and first.actions.shape == (51, 4)
    assert np.array_equal(first.video, again.video) and first.timed_captions == again.timed_captions
    assert np.array_equal(longer.video[:51], first.video) and np.array_equal(longer.actions[:51], first.actions)


def test_captions_begin_at_the_first_frame_of_a_latent_frame() -> None:
    world = ShapesWorld(5)
    for index in range(20):
        recording = world.recording(index, 51, 0.3)
        frames = [frame for frame, _ in recording.timed_captions]
        assert frames[0] == 0 and frames == sorted(set(frames)) and all(frame % 2 for frame in frames[1:])
        assert not recording.actions[0].any()
        for _, caption in recording.timed_captions:
            parse_caption(caption)


def test_whole_scenes_are_as_their_captions_claim() -> None:
    """The frames of a scene with the last frame before it satisfy its caption, where it was not cut short."""
    world, checked = ShapesWorld(5, objects=1), 0
    for index in range(12):
        recording = world.recording(index, 51, 0.3)
        starts = [frame for frame, _ in recording.timed_captions] + [len(recording.video)]
        for number, (frame, caption) in enumerate(recording.timed_captions):
            first = max(frame - 1, 0)
            action = parse_caption(caption).objects[0].action
            if starts[number + 1] - first >= 11 and action != "steered":
                assert check(recording.video[first : first + 11], caption).fulfilled, (index, caption)
                checked += 1
    assert checked > 15


def test_keys_move_the_object_they_control() -> None:
    thing = SceneObject("circle", "red", "still", 32.0, 32.0, 9.0)
    other = SceneObject("square", "blue", "still", 8.0, 55.0, 6.0)
    scene = Scene((thing, other), "black", 1, 64, 64)
    for number, (dx, dy) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
        keys = np.zeros((5, 4), np.float32)
        keys[1:4, number] = 1
        row = [(s.objects[0].x, s.objects[0].y) for s in steer(scene, 0, keys)]
        assert row[0] == (32, 32) and row[3] == row[4] == (32 + 3 * SPEED * dx, 32 + 3 * SPEED * dy)
    held = np.tile(np.eye(4, dtype=np.float32)[KEYS.index("left")], (40, 1))
    *_, last = steer(scene, 0, held)
    assert last.objects[0].x == thing.reach + 1 and last.objects[1] == other  # the border stops it
    down = np.tile(np.float32([1, 0, 0, 1]), (40, 1))
    for step in steer(scene, 0, down):
        a, b = step.objects
        assert np.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach + 2  # so does the other object


def test_the_dataset_gives_actions_where_it_has_control() -> None:
    with_keys, without = dataset(OPTIONS), dataset({"recordings": True})
    assert with_keys.actions.names == KEYS and set(with_keys.actions.kinds) == {"button"}
    assert with_keys.sample(0, 51).actions.shape == (51, 4) and with_keys.sample(0, 21).video.shape[0] == 21
    assert without.actions is None and without.sample(0, 51).actions is None
    assert any(with_keys.sample(index, 51).actions.any() for index in range(5))
    assert dataset(OPTIONS).sample(0, 1).video.shape[0] == 1  # an image
    with pytest.raises(PhenakiError, match="control=0.5 is for recordings"):
        dataset({"control": 0.5})


def test_scenes_of_long_training_clips_are_as_quick_as_those_of_short_ones() -> None:
    """A scene has 11 frames and at most 16 at rest, whatever the longest clip of a training is."""
    datasets = [ShapesDataset({"recordings": True}, seed=0, split="train", size=(64, 64), frames=n) for n in (51, 101)]
    for index in range(20):
        recordings = [dataset.sample(index, 51) for dataset in datasets]
        assert np.array_equal(*(recording.video for recording in recordings))
        assert recordings[0].timed_captions[1][0] <= 27
