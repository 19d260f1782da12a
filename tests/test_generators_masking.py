"""The mask schedule and exact mask counts."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from phenaki.generators.masking import Schedule, free_positions, mask_ratio, masked_count, random_mask

SCHEDULES = get_args(Schedule)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_all_to_none(schedule: str) -> None:
    ratio = mask_ratio(torch.linspace(0, 1, 101), schedule)
    assert ratio[0] == 1
    assert ratio[-1].abs() < 1e-6
    assert (ratio.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("free", [1, 7, 384])
def test_counts_end_at_none_and_never_before(schedule: str, free: int) -> None:
    count = masked_count(torch.linspace(0, 1, 49), torch.tensor(free), schedule)
    assert count[0] == free
    assert count[-1] == 0
    assert (count[:-1] >= 1).all()
    assert (count.diff() <= 0).all()


def test_schedules_are_what_their_names_say() -> None:
    assert SCHEDULES == ("cosine", "linear", "square", "cubic", "root")
    progress = torch.linspace(0, 1, 41)
    expected = {"cosine": torch.cos(progress * torch.pi / 2), "linear": 1 - progress, "square": 1 - progress * progress}
    expected |= {"cubic": 1 - progress * progress * progress, "root": 1 - progress.sqrt()}
    for schedule in SCHEDULES:
        assert torch.allclose(mask_ratio(progress, schedule), expected[schedule], atol=1e-6), schedule
    assert torch.equal(mask_ratio(progress), expected["cosine"])  # as training samples it, bit for bit


def test_cosine_ratios_in_training_have_the_papers_mean() -> None:
    rng = torch.Generator().manual_seed(0)
    ratios = mask_ratio(torch.rand(200_000, generator=rng))
    assert ratios.mean().item() == pytest.approx(2 / torch.pi, abs=3e-3)


def test_masks_have_exactly_the_count_and_lie_in_what_is_free() -> None:
    rng = torch.Generator().manual_seed(0)
    free = free_positions((6, 4, 4), torch.tensor([0, 1, 3, 5]))
    assert free.flatten(1).sum(1).tolist() == [96, 80, 48, 16]
    count = torch.tensor([96, 1, 17, 9])
    mask = random_mask(free, count, rng)
    assert torch.equal(mask.flatten(1).sum(1), count)
    assert not (mask & ~free).any()


def test_masks_are_even_over_positions() -> None:
    rng = torch.Generator().manual_seed(0)
    free = torch.ones(4000, 2, 3, 3, dtype=torch.bool)
    hits = random_mask(free, torch.full((4000,), 6), rng).float().mean(0)
    assert (hits - 1 / 3).abs().max() < 0.035
