"""Which ids each filter leaves."""

from __future__ import annotations

import math

import pytest
import torch

from phenaki.sampling.filters import filtered, nucleus_filter, top_k_filter, typical_filter

V = 50
OFF = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0}


@pytest.fixture
def log_p() -> torch.Tensor:
    """Rows from nearly flat to nearly certain."""
    logits = torch.randn(40, V, generator=torch.Generator().manual_seed(0))
    return (logits * torch.linspace(0.05, 6, 40)[:, None]).log_softmax(-1)


def left(filtered_log_p: torch.Tensor) -> torch.Tensor:
    return filtered_log_p > float("-inf")


@pytest.mark.parametrize("setting", [{"top_k": 7}, {"top_p": 0.8}, {"typical_p": 0.8}])
def test_what_is_left_keeps_its_proportions_and_sums_to_one(log_p: torch.Tensor, setting: dict[str, float]) -> None:
    found = filtered(log_p, **OFF | setting)
    assert torch.allclose(found.exp().sum(-1), torch.ones(len(found)))
    for before, after in zip(log_p, found, strict=True):
        shift = (after - before)[left(after)]
        assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5)
    assert not left(found).all()


def test_filters_that_are_off_change_nothing(log_p: torch.Tensor) -> None:
    assert filtered(log_p, **OFF) is log_p
    assert filtered(log_p, **OFF | {"top_k": V}) is log_p


def test_top_k_leaves_the_k_most_likely(log_p: torch.Tensor) -> None:
    kept = left(top_k_filter(log_p, 7))
    assert (kept.sum(-1) == 7).all()
    assert (log_p.masked_fill(~kept, 9).amin(-1) >= log_p.masked_fill(kept, -99).amax(-1)).all()


@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_the_smallest_set_of_its_mass(log_p: torch.Tensor, mass: float) -> None:
    for row, kept in zip(log_p.exp(), left(nucleus_filter(log_p, mass)), strict=True):
        likely_first = row.sort(descending=True).values.double()
        size = int(kept.sum())
        assert torch.equal(row[kept].sort(descending=True).values.double(), likely_first[:size])
        assert likely_first[:size].sum() >= mass - 1e-6
        assert likely_first[: size - 1].sum() < mass + 1e-6


def test_a_mass_that_is_reached_exactly_is_enough() -> None:
    log_p = torch.tensor([[0.125, 0.5, 0.25, 0.125]]).log()
    assert left(nucleus_filter(log_p, 0.75)).tolist() == [[False, True, True, False]]
    assert left(nucleus_filter(log_p, 0.76)).sum() == 3


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.95])
def test_typical_ids_are_those_whose_surprise_is_nearest_to_the_entropy(log_p: torch.Tensor, mass: float) -> None:
    for row, kept in zip(log_p.double(), left(typical_filter(log_p, mass)), strict=True):
        entropy = -sum(math.exp(value) * value for value in row.tolist())
        distance = (-row - entropy).abs()
        assert distance[kept].max() <= distance[~kept].min() + 1e-4
        in_order = row[distance.argsort()].exp()
        size = int(kept.sum())
        assert in_order[:size].sum() >= mass - 1e-5
        assert in_order[: size - 1].sum() < mass + 1e-5


def test_the_typical_set_leaves_out_an_id_far_likelier_than_expected() -> None:
    """One id of probability 0.3 over 70 of 0.01: the entropy is near to that of the many."""
    log_p = torch.tensor([[0.3] + [0.01] * 70]).log()
    assert not left(typical_filter(log_p, 0.5))[0, 0]
    assert left(nucleus_filter(log_p, 0.5))[0, 0]


def test_filters_apply_in_sequence() -> None:
    """The nucleus is that of what `top_k` left: of 0.4, 0.3 and 0.3 half the mass is 0.4 of 0.7."""
    log_p = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert left(filtered(log_p, top_k=2, top_p=0.57, typical_p=1.0)).sum() == 1
    assert left(filtered(log_p, top_k=0, top_p=0.57, typical_p=1.0)).sum() == 2


def test_something_is_always_left_even_of_certainty() -> None:
    certain = torch.full((1, V), -200.0)
    certain[0, 3] = 0
    found = filtered(certain.log_softmax(-1), top_k=1, top_p=1e-6, typical_p=1e-6)
    assert left(found).sum() == 1 and found[0, 3] == 0
