"""Batches of a step: a function of seed, step and rank; short clips are the beginnings of long ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phenaki.data.batches import ShapesBatches, ShapesDataConfig, batches
from phenaki.errors import PhenakiError

CONFIG = ShapesDataConfig(size=32, batch=4, lengths=(1, 5), length_shares=(0.5, 0.5), workers=0)


def test_a_step_has_the_same_batch_whenever_it_is_drawn() -> None:
    whole = list(batches(ShapesBatches(CONFIG, 2, 6), 0))
    resumed = list(batches(ShapesBatches(replace(CONFIG, workers=2), 2, 6), 3))
    assert len(whole) == 6
    assert len(resumed) == 3
    for one, two in zip(whole[3:], resumed, strict=True):
        assert torch.equal(one["video"], two["video"])
        assert one["captions"] == two["captions"]
        assert torch.equal(one["continued"], two["continued"])


def test_every_step_has_as_many_time_steps_whatever_the_length() -> None:
    shapes = {tuple(batch["video"].shape) for batch in batches(ShapesBatches(CONFIG, 2, 12), 0)}
    assert shapes == {(12, 1, 32, 32, 3), (4, 5, 32, 32, 3)}


def test_processes_share_a_batch_without_loss_or_double() -> None:
    whole = ShapesBatches(CONFIG, 2, 4)
    parts = [ShapesBatches(CONFIG, 2, 4, rank, 2) for rank in range(2)]
    for step in range(4):
        joined = torch.cat([part[step]["video"] for part in parts])
        assert torch.equal(joined, whole[step]["video"])


def test_no_sample_is_drawn_twice() -> None:
    data = ShapesBatches(replace(CONFIG, lengths=(5,), length_shares=(1.0,)), 2, 50)
    clips = torch.cat([data[step]["video"] for step in range(50)]).flatten(1)
    assert len(clips.unique(dim=0)) == len(clips)


def test_short_clips_are_the_beginnings_of_long_ones() -> None:
    def first(lengths: tuple[int, ...], shares: tuple[float, ...]) -> torch.Tensor:
        config = replace(CONFIG, lengths=lengths, length_shares=shares, continued=0.0)
        return ShapesBatches(config, 2, 1)[0]["video"]

    short, long = first((3, 5), (1.0, 0.0)), first((3, 5), (0.0, 1.0))
    assert torch.equal(short[:4], long[:, :3])


def test_images_never_go_on_from_a_scene() -> None:
    config = replace(CONFIG, lengths=(1, 5), length_shares=(1.0, 0.0), continued=1.0)
    assert not ShapesBatches(config, 2, 1)[0]["continued"].any()


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(PhenakiError, match="one share for each length"):
        replace(CONFIG, length_shares=(1.0,))
    with pytest.raises(PhenakiError, match="not a multiple of the 3 processes"):
        ShapesBatches(CONFIG, 2, 1, 0, 3)
    with pytest.raises(PhenakiError, match="4 frames"):
        ShapesBatches(replace(CONFIG, lengths=(4,), length_shares=(1.0,)), 2, 1)
