"""Parallel decoding: known ids, seeds, counts, and that it draws what the logits say."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch

from phenaki.core.errors import PhenakiError
from phenaki.generators.masking import Schedule, masked_count
from phenaki.sampling import SamplingConfig, decode
from phenaki.sampling.decoding import LogitsFn
from phenaki.sampling.orders import Order, halton

V = 20
MASK = V


def random_logits(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the place and on what is filled in so far."""
    seed = int(ids[ids != MASK].sum()) + int(where.sum())
    return torch.randn(*ids.shape, V, generator=torch.Generator().manual_seed(seed))[where]


def run(config: SamplingConfig, seed: int = 0, known: torch.Tensor | None = None, logits_fn=random_logits, critic=None):
    ids = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4) % V
    known = torch.zeros_like(ids, dtype=torch.bool) if known is None else known
    return ids, decode(logits_fn, ids, known, MASK, config, torch.Generator().manual_seed(seed), critic=critic)


@pytest.mark.parametrize("steps", [1, 5, 12, 100])
def test_all_is_filled_in_whatever_the_steps(steps: int) -> None:
    _, found = run(SamplingConfig(steps=steps))
    assert 0 <= found.min() <= found.max() < V


def test_known_ids_stay_bit_equal() -> None:
    known = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    known[0] = True  # a sample in which nothing is unknown, beside one in which much is
    ids, found = run(SamplingConfig(), known=known)
    assert torch.equal(found[known], ids[known])
    assert (found < V).all()


def test_the_model_sees_known_and_fixed_ids_and_no_others() -> None:
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        assert torch.equal(where, ids == MASK)
        seen.append(ids.clone())
        return random_logits(ids, where)

    _, found = run(SamplingConfig(steps=6), logits_fn=logits_fn)
    counts = [int((ids[0] == MASK).sum()) for ids in seen]
    assert counts == [48, 47, 42, 34, 24, 13]  # ceil(48 cos(pi/2 s/6))
    for earlier, later in zip(seen, [*seen[1:], found], strict=True):
        fixed = earlier != MASK
        assert torch.equal(later[fixed], earlier[fixed])


def test_same_seed_same_ids() -> None:
    config = SamplingConfig()
    assert torch.equal(run(config, seed=3)[1], run(config, seed=3)[1])
    assert not torch.equal(run(config, seed=3)[1], run(config, seed=4)[1])


def test_drawn_ids_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return probabilities.log().expand(int(where.sum()), 4)

    def shares(**change: float) -> torch.Tensor:
        ids = torch.zeros(100, 2, 10, 10, dtype=torch.long)
        config = SamplingConfig(steps=1, **change)
        found = decode(logits_fn, ids, ids > 0, 4, config, torch.Generator().manual_seed(0))
        return torch.bincount(found.flatten(), minlength=4) / found.numel()

    assert torch.allclose(shares(temperature=1.0), probabilities, atol=0.015)
    sharp = probabilities**2 / (probabilities**2).sum()
    assert torch.allclose(shares(temperature=0.5), sharp, atol=0.015)
    assert torch.allclose(shares(top_k=2), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015)
    assert shares(temperature=0.0).tolist() == [1, 0, 0, 0]


def test_the_surest_are_fixed_first_and_noise_fades() -> None:
    """Without choice noise the places of certain logits are fixed first; with it the last step is still the surest."""
    certainty = torch.linspace(8, 0.1, 48).view(1, 3, 4, 4)

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, V)
        logits[..., 0] = certainty
        order.append(where.clone())
        return logits[where]

    order: list[torch.Tensor] = []
    ids = torch.zeros(1, 3, 4, 4, dtype=torch.long)
    config = SamplingConfig(steps=8, choice_temperature=0.0, temperature=0.0)
    decode(logits_fn, ids, ids > 0, MASK, config, torch.Generator().manual_seed(0))
    for where in order:
        assert certainty[where].max() <= certainty[~where].min() if (~where).any() else True
    order.clear()
    noisy = replace(config, choice_temperature=50.0)
    decode(logits_fn, ids, ids > 0, MASK, noisy, torch.Generator().manual_seed(0))
    assert certainty[order[3]].max() > certainty[~order[3]].min()


ORDERS = get_args(Order)


def even_critic(ids: torch.Tensor) -> torch.Tensor:
    """Takes even ids for real."""
    return (ids % 2 == 0) * 5.0


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("order", ORDERS)
def test_each_order_fills_in_as_many_as_the_schedule_says(order: Order, schedule: Schedule) -> None:
    """For each sample of its own, known ids kept, and no id but the schedule's count ever unknown."""
    known = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.7]).view(
        2, 1, 1, 1
    )
    left: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        assert not (where & (ids != MASK)).any()
        left.append((ids == MASK).flatten(1).sum(1))
        return random_logits(ids, where)

    config = SamplingConfig(steps=7, order=order, schedule=schedule)
    ids, found = run(config, known=known, logits_fn=logits_fn, critic=even_critic)
    free = (~known).flatten(1).sum(1)
    expected = [masked_count(torch.full((2,), step / 7), free, schedule).tolist() for step in range(7)]
    if order in ("random", "halton"):  # a step that fills in nothing asks for nothing
        expected = [one for one, after in zip(expected, [*expected[1:], [0, 0]], strict=True) if one != after]
    assert [each.tolist() for each in left] == expected
    assert torch.equal(found[known], ids[known])
    assert (found < V).all()


@pytest.mark.parametrize("order", ORDERS)
def test_same_seed_same_ids_in_each_order(order: Order) -> None:
    config = SamplingConfig(order=order, top_p=0.9, typical_p=0.9, top_k=15, temperature_end=0.3)
    once, again, other = (run(config, seed, critic=even_critic)[1] for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("order", ["random", "halton"])
def test_planned_orders_ask_for_the_logits_of_each_place_once(order: Order) -> None:
    asked: list[torch.Tensor] = []
    run(SamplingConfig(order=order), logits_fn=lambda ids, where: asked.append(where) or random_logits(ids, where))
    assert (torch.stack(asked).sum(0) == 1).all()


def test_halton_fills_in_by_its_sequence_whatever_is_known() -> None:
    known = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    known[:, 0] = True
    asked: list[torch.Tensor] = []
    config = SamplingConfig(order="halton", steps=8)
    run(config, known=known, logits_fn=lambda ids, where: asked.append(where) or random_logits(ids, where))
    latest = [int(halton((3, 4, 4))[where[0]].max()) for where in asked]
    earliest = [int(halton((3, 4, 4))[where[0]].min()) for where in asked]
    assert all(last < first for last, first in zip(latest, earliest[1:], strict=False))


def test_random_order_differs_between_samples_and_seeds() -> None:
    def first_places(seed: int) -> torch.Tensor:
        asked: list[torch.Tensor] = []
        config = SamplingConfig(order="random", steps=2)
        run(config, seed, logits_fn=lambda ids, where: asked.append(where) or random_logits(ids, where))
        return asked[0]

    assert not torch.equal(first_places(0)[0], first_places(0)[1])
    assert not torch.equal(first_places(0), first_places(1))


def test_a_critic_has_what_it_takes_for_false_drawn_again() -> None:
    """Ids that were fixed earlier too, and never those that are known."""
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        seen.append(where)
        return random_logits(ids, where)

    def critic(ids: torch.Tensor) -> torch.Tensor:
        assert (ids < V).all()
        return even_critic(ids)

    ids = torch.ones(2, 3, 4, 4, dtype=torch.long)
    known = torch.zeros_like(ids, dtype=torch.bool)
    known[:, :, 0] = True  # odd, all of them
    config = SamplingConfig(order="critic", steps=12, choice_temperature=2.0)
    found = decode(logits_fn, ids, known, MASK, config, torch.Generator().manual_seed(0), critic=critic)
    assert torch.equal(found[known], ids[known])
    assert not any((where & known).any() for where in seen)
    assert any((after & ~before).any() for before, after in zip(seen, seen[1:], strict=False))
    assert (found[~known] % 2 == 0).float().mean() > 0.75  # 0.5 by chance


@pytest.mark.parametrize("order", ["confidence", "critic"])
def test_noise_on_the_choice_falls_to_nothing(order: Order) -> None:
    """Of sure and unsure places, both are fixed early, and only unsure ones are left at last."""
    sure = torch.arange(48).view(1, 3, 4, 4).expand(2, 3, 4, 4) % 2 == 0
    logits = torch.zeros(2, 3, 4, 4, V)
    logits[..., 0] = sure * 30.0  # log-probability 0 there, -log 20 = -3 elsewhere
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        seen.append(where)
        return logits[where]

    config = SamplingConfig(order=order, steps=8, choice_temperature=3.0)
    run(config, logits_fn=logits_fn, critic=lambda _: 3.0 * sure)
    assert (seen[3] & ~sure).sum() < (~sure).sum()
    assert not (seen[-1] & sure).any()


def test_a_critic_is_left_alone_by_the_other_orders() -> None:
    assert torch.equal(run(SamplingConfig(), critic=lambda _: 1 / 0)[1], run(SamplingConfig())[1])


def test_the_order_of_a_critic_needs_one() -> None:
    with pytest.raises(PhenakiError, match="needs a critic.* confidence, random, halton"):
        run(SamplingConfig(order="critic"))


def test_filters_narrow_what_is_drawn_and_not_how_sure_the_model_is() -> None:
    """With one id left to draw, the surest places still come first."""
    certainty = torch.linspace(8, 0.1, 48).view(1, 3, 4, 4)

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        order.append(where.clone())
        return torch.cat((certainty[..., None], torch.zeros(1, 3, 4, 4, V - 1)), -1)[where]

    for narrow in ({"top_k": 1}, {"top_p": 1e-4}):
        order: list[torch.Tensor] = []
        ids = torch.zeros(1, 3, 4, 4, dtype=torch.long)
        config = SamplingConfig(steps=8, choice_temperature=0.0, **narrow)
        found = decode(logits_fn, ids, ids > 0, MASK, config, torch.Generator().manual_seed(0))
        assert (found == 0).all()
        for where in order[2:]:
            assert certainty[where].max() <= certainty[~where].min()


def test_temperature_may_fall_to_greed() -> None:
    """The last step takes the likeliest, the first does not."""
    drawn: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        drawn.append(ids.clone())
        return torch.linspace(0.5, 0, V).expand(int(where.sum()), V)

    config = SamplingConfig(steps=8, order="halton", temperature=1.0, temperature_end=0.0)
    _, found = run(config, logits_fn=logits_fn)
    last = drawn[-1] == MASK
    assert (found[last] == 0).all()
    assert (found[~last] != 0).float().mean() > 0.5


def test_each_step_may_have_its_own_logits() -> None:
    def constant(value: int) -> LogitsFn:
        return lambda ids, where: torch.eye(V)[torch.full((int(where.sum()),), value)] * 99

    _, found = run(
        SamplingConfig(steps=5, order="halton", schedule="linear"), logits_fn=[constant(v) for v in range(5)]
    )
    shares = torch.bincount(found[0].flatten(), minlength=V)
    assert shares.tolist() == [9, 10, 9, 10, 10] + [0] * 15  # 48 ids in 5 equal steps, rounded up to stay masked


def test_work_in_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SamplingConfig(top_p=0.9, temperature_end=0.5)
    _, whole = run(config)
    monkeypatch.setattr(sys.modules[decode.__module__], "_AT_ONCE", 7 * V)
    assert torch.equal(run(config)[1], whole)


def test_the_largest_random_number_draws_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.ones(*size))
    _, found = run(SamplingConfig(steps=1, top_k=1), logits_fn=lambda ids, where: torch.eye(V)[ids[where] % 1 + 3])
    assert (found == 3).all()


WRONG = [
    {"steps": 0},
    {"temperature": -1.0},
    {"temperature_end": -0.5},
    {"guidance": -2.0},
    {"guidance_end": -3.0},
    {"guidance_share": 0.0},
    {"guidance_share": 1.5},
    {"prime_frames": 0},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"typical_p": -0.1},
    {"order": "haltom"},
    {"schedule": "sine"},
    {"negative": "a star", "guidance": 1.0},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(PhenakiError, match=str(next(iter(wrong.values())))):
        SamplingConfig(**wrong)
