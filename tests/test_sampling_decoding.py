"""Parallel decoding: known ids, seeds, counts, and that ids follow the distribution of the logits."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch

from helpers.sampling import sampling_config
from phenaki.core.errors import PhenakiError
from phenaki.generators.masking import Schedule, masked_count
from phenaki.sampling import DecodingConfig, GuidanceConfig, RolloutConfig, SamplingConfig, decode
from phenaki.sampling.decoding import LogitsFn
from phenaki.sampling.orders import Order, halton

V = 20
MASK = V


def random_logits(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the position and on what is filled in so far."""
    seed = int(ids[ids != MASK].sum()) + len(where)
    return torch.randn(ids.numel(), V, generator=torch.Generator().manual_seed(seed))[where]


def as_mask(where: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Indices into the flattened ids, in order and each once, as a mask over their grid."""
    assert where.dtype == torch.int64 and where.ndim == 1 and (where.diff() > 0).all()
    return torch.zeros(ids.numel(), dtype=torch.bool).index_fill(0, where, True).view(ids.shape)


def run(config: DecodingConfig, seed: int = 0, known: torch.Tensor | None = None, logits_fn=random_logits, critic=None):
    ids = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4) % V
    known = torch.zeros_like(ids, dtype=torch.bool) if known is None else known
    rng = torch.Generator().manual_seed(seed)
    return ids, decode(logits_fn, ids, known, MASK, config, rng, critic_scores_fn=critic)


def recorded(asked: list[torch.Tensor]) -> LogitsFn:
    """`random_logits` that appends the mask of what it is asked for to `asked`."""

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        asked.append(as_mask(where, ids))
        return random_logits(ids, where)

    return logits_fn


@pytest.mark.parametrize("steps", [1, 5, 12, 100])
def test_all_is_filled_in_with_any_number_of_steps(steps: int) -> None:
    _, found = run(DecodingConfig(steps=steps))
    assert 0 <= found.min() <= found.max() < V


def test_known_ids_stay_bit_equal() -> None:
    known = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    known[0] = True  # nothing is unknown in this sample, and much is in the other
    ids, found = run(DecodingConfig(), known=known)
    assert torch.equal(found[known], ids[known])
    assert (found < V).all()


def test_the_model_sees_known_and_fixed_ids_and_no_others() -> None:
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        assert torch.equal(as_mask(where, ids), ids == MASK)
        seen.append(ids.clone())
        return random_logits(ids, where)

    _, found = run(DecodingConfig(steps=6), logits_fn=logits_fn)
    counts = [int((ids[0] == MASK).sum()) for ids in seen]
    assert counts == [48, 47, 42, 34, 24, 13]  # ceil(48 cos(pi/2 s/6))
    for earlier, later in zip(seen, [*seen[1:], found], strict=True):
        fixed = earlier != MASK
        assert torch.equal(later[fixed], earlier[fixed])


def test_same_seed_same_ids() -> None:
    config = DecodingConfig()
    assert torch.equal(run(config, seed=3)[1], run(config, seed=3)[1])
    assert not torch.equal(run(config, seed=3)[1], run(config, seed=4)[1])


def test_sampled_ids_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return probabilities.log().expand(len(where), 4)

    def frequencies(**change: float) -> torch.Tensor:
        ids = torch.zeros(100, 2, 10, 10, dtype=torch.long)
        config = DecodingConfig(steps=1, **change)
        found = decode(logits_fn, ids, ids > 0, 4, config, torch.Generator().manual_seed(0))
        return torch.bincount(found.flatten(), minlength=4) / found.numel()

    assert torch.allclose(frequencies(temperature=1.0), probabilities, atol=0.015)
    sharp = probabilities**2 / (probabilities**2).sum()
    assert torch.allclose(frequencies(temperature=0.5), sharp, atol=0.015)
    assert torch.allclose(frequencies(top_k=2), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015)
    assert frequencies(temperature=0.0).tolist() == [1, 0, 0, 0]


def test_the_most_confident_are_kept_first_and_noise_decays() -> None:
    """Without choice noise the positions of confident logits come first; with it others come before them."""
    certainty = torch.linspace(8, 0.1, 48).view(1, 3, 4, 4)

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, V)
        logits[..., 0] = certainty
        order.append(as_mask(where, ids))
        return logits.flatten(0, 3)[where]

    order: list[torch.Tensor] = []
    ids = torch.zeros(1, 3, 4, 4, dtype=torch.long)
    config = DecodingConfig(steps=8, choice_temperature=0.0, temperature=0.0)
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
def test_each_order_follows_the_schedule(order: Order, schedule: Schedule) -> None:
    """For each sample by itself; known ids are kept."""
    known = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.7]).view(
        2, 1, 1, 1
    )
    left: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        assert not (as_mask(where, ids) & (ids != MASK)).any()
        left.append((ids == MASK).flatten(1).sum(1))
        return random_logits(ids, where)

    config = DecodingConfig(steps=7, order=order, schedule=schedule)
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
    config = DecodingConfig(order=order, top_p=0.9, typical_p=0.9, top_k=15, temperature_end=0.3)
    once, again, other = (run(config, seed, critic=even_critic)[1] for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("order", ["random", "halton"])
def test_planned_orders_take_the_logits_of_each_position_once(order: Order) -> None:
    asked: list[torch.Tensor] = []
    run(DecodingConfig(order=order), logits_fn=recorded(asked))
    assert (torch.stack(asked).sum(0) == 1).all()


def test_halton_follows_its_sequence_with_known_ids_too() -> None:
    known = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    known[:, 0] = True
    asked: list[torch.Tensor] = []
    config = DecodingConfig(order="halton", steps=8)
    run(config, known=known, logits_fn=recorded(asked))
    latest = [int(halton((3, 4, 4))[where[0]].max()) for where in asked]
    earliest = [int(halton((3, 4, 4))[where[0]].min()) for where in asked]
    assert all(last < first for last, first in zip(latest, earliest[1:], strict=False))


def test_random_order_differs_between_samples_and_seeds() -> None:
    def first_positions(seed: int) -> torch.Tensor:
        asked: list[torch.Tensor] = []
        config = DecodingConfig(order="random", steps=2)
        run(config, seed, logits_fn=recorded(asked))
        return asked[0]

    assert not torch.equal(first_positions(0)[0], first_positions(0)[1])
    assert not torch.equal(first_positions(0), first_positions(1))


def test_ids_of_low_critic_scores_are_resampled() -> None:
    """Those of earlier steps too, and never known ones."""
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        seen.append(as_mask(where, ids))
        return random_logits(ids, where)

    def critic(ids: torch.Tensor) -> torch.Tensor:
        assert (ids < V).all()
        return even_critic(ids)

    ids = torch.ones(2, 3, 4, 4, dtype=torch.long)
    known = torch.zeros_like(ids, dtype=torch.bool)
    known[:, :, 0] = True  # odd, all of them
    config = DecodingConfig(order="critic", steps=12, choice_temperature=2.0)
    found = decode(logits_fn, ids, known, MASK, config, torch.Generator().manual_seed(0), critic_scores_fn=critic)
    assert torch.equal(found[known], ids[known])
    assert not any((where & known).any() for where in seen)
    assert any((after & ~before).any() for before, after in zip(seen, seen[1:], strict=False))
    assert (found[~known] % 2 == 0).float().mean() > 0.75  # 0.5 by chance


@pytest.mark.parametrize("order", ["confidence", "critic"])
def test_choice_noise_decays_to_zero(order: Order) -> None:
    """Confident and other positions are both kept early, and only others are left at the end."""
    confident = torch.arange(48).view(1, 3, 4, 4).expand(2, 3, 4, 4) % 2 == 0
    logits = torch.zeros(2, 3, 4, 4, V)
    logits[..., 0] = confident * 30.0  # log-probability 0 there, -log 20 = -3 elsewhere
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        seen.append(as_mask(where, ids))
        return logits.flatten(0, 3)[where]

    config = DecodingConfig(order=order, steps=8, choice_temperature=3.0)
    run(config, logits_fn=logits_fn, critic=lambda _: 3.0 * confident)
    assert (seen[3] & ~confident).sum() < (~confident).sum()
    assert not (seen[-1] & confident).any()


def test_other_orders_do_not_call_the_critic() -> None:
    assert torch.equal(run(DecodingConfig(), critic=lambda _: 1 / 0)[1], run(DecodingConfig())[1])


def test_the_order_critic_needs_a_critic() -> None:
    with pytest.raises(PhenakiError, match="needs a critic.* confidence, random, halton"):
        run(DecodingConfig(order="critic"))


def test_filters_change_what_is_sampled_and_not_the_confidence() -> None:
    """With one id left to sample, the most confident positions still come first."""
    certainty = torch.linspace(8, 0.1, 48).view(1, 3, 4, 4)

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        order.append(as_mask(where, ids))
        return torch.cat((certainty[..., None], torch.zeros(1, 3, 4, 4, V - 1)), -1).flatten(0, 3)[where]

    for narrow in ({"top_k": 1}, {"top_p": 1e-4}):
        order: list[torch.Tensor] = []
        ids = torch.zeros(1, 3, 4, 4, dtype=torch.long)
        config = DecodingConfig(steps=8, choice_temperature=0.0, **narrow)
        found = decode(logits_fn, ids, ids > 0, MASK, config, torch.Generator().manual_seed(0))
        assert (found == 0).all()
        for where in order[2:]:
            assert certainty[where].max() <= certainty[~where].min()


def test_temperature_may_fall_to_zero() -> None:
    """The last step takes the most likely ids, the first does not."""
    seen: list[torch.Tensor] = []

    def logits_fn(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        seen.append(ids.clone())
        return torch.linspace(0.5, 0, V).expand(len(where), V)

    config = DecodingConfig(steps=8, order="halton", temperature=1.0, temperature_end=0.0)
    _, found = run(config, logits_fn=logits_fn)
    last = seen[-1] == MASK
    assert (found[last] == 0).all()
    assert (found[~last] != 0).float().mean() > 0.5


def test_each_step_may_have_its_own_logits() -> None:
    def constant(value: int) -> LogitsFn:
        return lambda ids, where: torch.eye(V)[torch.full((len(where),), value)] * 99

    _, found = run(
        DecodingConfig(steps=5, order="halton", schedule="linear"), logits_fn=[constant(v) for v in range(5)]
    )
    counts = torch.bincount(found[0].flatten(), minlength=V)
    assert counts.tolist() == [9, 10, 9, 10, 10] + [0] * 15  # 48 ids in 5 equal steps, rounded up to stay masked


def test_sampling_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DecodingConfig(top_p=0.9, temperature_end=0.5)
    _, whole = run(config)
    monkeypatch.setattr(sys.modules[decode.__module__], "_CHUNK", 7 * V)
    assert torch.equal(run(config)[1], whole)


def test_the_largest_random_number_samples_an_allowed_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.ones(*size))
    logits = torch.eye(V)[3]
    _, found = run(DecodingConfig(steps=1, top_k=1), logits_fn=lambda ids, where: logits.expand(len(where), V))
    assert (found == 3).all()


WRONG = [
    ({"steps": 0}, "steps 0 must be at least 1"),
    ({"temperature": -1.0}, "temperature -1.0 must be at least 0"),
    ({"temperature_end": -0.5}, "temperature_end -0.5 must be at least 0"),
    ({"temperature": float("nan")}, "temperature nan must be finite and at least 0"),
    ({"choice_temperature": -0.1}, "choice_temperature -0.1 must be at least 0"),
    ({"top_k": -1}, "top_k -1 must be at least 0"),
    ({"guidance_scale": -2.0}, "scale -2.0 must be at least 0"),
    ({"guidance_scale_end": -3.0}, "scale_end -3.0 must be at least 0"),
    ({"guidance_fraction": 0.0}, "fraction 0.0 must be above 0 and at most 1"),
    ({"guidance_fraction": 1.5}, "fraction 1.5 must be above 0 and at most 1"),
    ({"prime_frames": 0}, "prime_frames 0 must be at least 1"),
    ({"first_frame_steps": -1}, "first_frame_steps -1 must be at least 0"),
    ({"top_p": 0.0}, "top_p 0.0 must be above 0 and at most 1"),
    ({"top_p": 1.5}, "top_p 1.5 must be above 0 and at most 1"),
    ({"typical_p": -0.1}, "typical_p -0.1 must be above 0 and at most 1"),
    ({"order": "haltom"}, "order 'haltom': there are .*'halton'"),
    ({"schedule": "sine"}, "schedule 'sine': there are cosine, linear"),
    ({"schedule": "sqrt"}, "schedule 'sqrt': there are cosine, linear"),
    ({"negative_prompt": "a star", "guidance_scale": 1.0}, "'a star' has no effect at guidance scale 1"),
    ({"negative_prompt": "a star", "guidance_scale": 1.0, "guidance_scale_end": 1.0}, "'a star' has no effect"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=str)
def test_impossible_settings_are_refused(wrong: dict, says: str) -> None:
    with pytest.raises(PhenakiError, match=says):
        sampling_config(**wrong)


# ---- the options of a call


def test_options_change_their_section_and_nothing_else() -> None:
    before = sampling_config(steps=7, guidance_scale=2.0, first_frame_steps=5, first_frame_alone=True)
    assert before.with_options({}) == before
    assert before.with_options({"steps": None, "negative_prompt": None}) == before
    options = {"top_k": 3, "order": "halton", "guidance_scale_end": 4.0, "negative_prompt": "a star", "prime_frames": 3}
    assert before.with_options(options) == sampling_config(
        steps=7, guidance_scale=2.0, first_frame_steps=5, first_frame_alone=True, **options
    )
    assert before == sampling_config(steps=7, guidance_scale=2.0, first_frame_steps=5, first_frame_alone=True)


def test_steps_of_a_call_are_also_those_of_the_first_frame() -> None:
    before = SamplingConfig(DecodingConfig(steps=7), GuidanceConfig(fraction=0.5), RolloutConfig(first_frame_steps=5))
    assert before.of_first_frame() == replace(
        before, decoding=replace(before.decoding, steps=5), guidance=replace(before.guidance, fraction=1.0)
    )
    assert before.with_options({"steps": 3}).of_first_frame().decoding.steps == 3
    assert before.with_options({"top_k": 3}).of_first_frame().decoding.steps == 5
    both = before.with_options({"first_frame_steps": 4, "steps": 3})
    assert both.of_first_frame().decoding.steps == 4 and both.decoding.steps == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step": 3}, "no sampling option 'step'.*'steps'"),
        ({"guidance": 3.0}, "no sampling option 'guidance'"),
        ({"first_frame_alone": True}, "no sampling option 'first_frame_alone'"),
        ({"steps": 0}, "^steps 0 must be at least 1"),
        ({"steps": 2.5}, "steps must be an integer"),
        ({"temperature": float("inf")}, "temperature inf must be finite"),
        ({"guidance_scale": "3"}, "^guidance_scale must be a number, not '3'"),
        ({"guidance_fraction": 2.0}, "^guidance_fraction 2.0 must be above 0 and at most 1"),
        ({"order": "haltom"}, "^order must be one of .*'halton'"),
        ({"prime_frames": 0}, "^prime_frames 0 must be at least 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(options: dict, says: str) -> None:
    with pytest.raises(PhenakiError, match=says):
        SamplingConfig().with_options(options)
