"""Token unmasking orders."""

from __future__ import annotations

import itertools

import pytest
import torch

from phenaki.sampling.orders import halton, planned_order

GRIDS = [(1, 1, 1), (1, 8, 8), (6, 8, 8), (6, 16, 16), (5, 7, 3), (13, 1, 2), (1, 9, 16)]


@pytest.mark.parametrize("grid", GRIDS)
def test_halton_is_a_permutation(grid: tuple[int, int, int]) -> None:
    order = halton(grid)
    assert order.shape == grid
    assert torch.equal(order.flatten().sort().values, torch.arange(order.numel()))


def test_halton_begins_as_its_sequence_does() -> None:
    """1/2, 1/4, 3/4, 1/8 along h, 1/3, 2/3, 1/9, 4/9 along w, each times the size."""
    order = halton((1, 8, 9))
    first = [tuple((order == k).nonzero()[0].tolist()) for k in range(4)]
    assert first == [(0, 4, 3), (0, 2, 6), (0, 6, 1), (0, 1, 4)]


def worst_fraction(order: torch.Tensor) -> float:
    """How far the filled fraction of any half, third or quarter of the grid is from that of the whole, in the first
    quarter of the steps."""
    worst = 0.0
    for axis, parts in itertools.product(range(order.ndim), (2, 3, 4)):
        if order.shape[axis] < parts:
            continue
        for part in order.tensor_split(parts, axis):
            for filled in range(16, order.numel() // 4, 5):
                worst = max(worst, abs((part < filled).float().mean().item() - filled / order.numel()))
    return worst


@pytest.mark.parametrize("grid", [(1, 16, 16), (6, 8, 8), (6, 16, 16)])
def test_halton_spreads(grid: tuple[int, int, int]) -> None:
    """It stays nearer to even than any of several random orders, and far nearer than row by row."""
    size = torch.Size(grid).numel()
    spread = worst_fraction(halton(grid))
    random = [
        worst_fraction(torch.randperm(size, generator=torch.Generator().manual_seed(seed)).view(grid))
        for seed in range(5)
    ]
    assert spread < 0.6 * min(random)
    assert spread < 0.1 * worst_fraction(torch.arange(size).view(grid))


def test_one_latent_frame_has_the_order_of_an_image_and_neighbours_wait() -> None:
    """Of the first 32 of 256 positions no two touch; in a random order several do."""
    early = halton((1, 16, 16))[0] < 32
    assert not (early[1:] & early[:-1]).any()
    assert not (early[:, 1:] & early[:, :-1]).any()


def test_planned_orders() -> None:
    shape, rng = torch.Size((2, 3, 4, 4)), torch.Generator().manual_seed(0)
    spread = planned_order("halton", shape, rng, torch.device("cpu"))
    assert torch.equal(spread[0].flatten().argsort(descending=True), halton((3, 4, 4)).flatten().argsort())
    assert torch.equal(spread[0], spread[1])
    random = planned_order("random", shape, rng, torch.device("cpu"))
    assert random.shape == shape and not torch.equal(random[0], random[1])
    assert planned_order("confidence", shape, rng, torch.device("cpu")) is None
    assert planned_order("critic", shape, rng, torch.device("cpu")) is None
