"""Parallel decoding: known ids, seeds, counts, and that it draws what the logits say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phenaki.errors import PhenakiError
from phenaki.generator import MaskedTransformer
from phenaki.sample import SamplingConfig, decode, guided
from phenaki.text import WordEncoder

V = 20
MASK = V


def random_logits(ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the place and on what is filled in so far."""
    seed = int(ids[ids != MASK].sum()) + int(where.sum())
    return torch.randn(*ids.shape, V, generator=torch.Generator().manual_seed(seed))[where]


def run(config: SamplingConfig, seed: int = 0, known: torch.Tensor | None = None, logits_fn=random_logits):
    ids = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4) % V
    known = torch.zeros_like(ids, dtype=torch.bool) if known is None else known
    return ids, decode(logits_fn, ids, known, MASK, config, torch.Generator().manual_seed(seed))


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


@torch.no_grad()
def test_guidance_mixes_the_two_branches(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    text = text_encoder.encode(["a red circle", "a blue star moves left"])
    ids = torch.full((2, 3, 4, 4), generator.mask_id)
    where = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    alone, ignored, mixed = (guided(generator, text, scale)(ids, where) for scale in (1.0, 0.0, 3.0))
    assert torch.allclose(mixed, ignored + 3 * (alone - ignored), atol=0.1)
    dropped = generator(ids, generator.drop(text, torch.ones(2, dtype=torch.bool)))[where]
    assert torch.allclose(ignored, dropped, atol=0.05)
    assert not torch.allclose(alone, ignored, atol=0.05)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"temperature": -1.0}, {"guidance": -2.0}, {"prime_frames": 0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(PhenakiError, match=str(next(iter(wrong.values())))):
        SamplingConfig(**wrong)
