"""Quantizers: round trips, straight-through gradients, usage, dead codes."""

from __future__ import annotations

import pytest
import torch

from phenaki.errors import PhenakiError
from phenaki.tokenizer.quantize import FSQ, Codebook, QuantizerConfig, build_quantizer, code_usage

CONFIGS = [
    QuantizerConfig(kind="fsq", levels=(8, 5, 2)),
    QuantizerConfig(kind="fsq", levels=(3,)),
    QuantizerConfig(kind="codebook", codebook_size=50, code_dim=4),
]


@pytest.fixture(params=CONFIGS, ids=["fsq", "fsq-1", "codebook"])
def quantizer(request: pytest.FixtureRequest) -> FSQ | Codebook:
    torch.manual_seed(0)
    return build_quantizer(request.param, width=16)


def test_ids_and_latents_agree(quantizer: FSQ | Codebook) -> None:
    quantized = quantizer(torch.randn(2, 3, 4, 4, 16) * 3)
    assert quantized.ids.shape == (2, 3, 4, 4)
    assert 0 <= quantized.ids.min() <= quantized.ids.max() < quantizer.vocab_size
    assert torch.allclose(quantizer.embed(quantized.ids), quantized.latents, atol=1e-5)


def test_every_code_has_its_own_latent(quantizer: FSQ | Codebook) -> None:
    latents = quantizer.embed(torch.arange(quantizer.vocab_size))
    assert len(latents.detach().round(decimals=4).unique(dim=0)) == quantizer.vocab_size


def test_gradient_goes_straight_through(quantizer: FSQ | Codebook) -> None:
    latents = torch.randn(64, 16, requires_grad=True)
    quantizer(latents).latents.square().sum().backward()
    assert latents.grad.abs().sum(1).gt(0).all()


def test_fsq_rounds_to_the_nearest_level() -> None:
    quantizer = build_quantizer(QuantizerConfig(levels=(5, 8)), width=2)
    with torch.no_grad():
        quantizer.project_in.weight.copy_(torch.eye(2))
        quantizer.project_in.bias.zero_()
    line = torch.linspace(-4, 4, 999)[:, None].expand(-1, 2)
    quantized = quantizer(line)
    for dimension, levels in enumerate((5, 8)):
        values = (torch.arange(levels) + 0.5) / levels * 2 - 1
        nearest = (line[:, dimension].tanh()[:, None] - values).abs().argmin(1)
        assert torch.allclose(quantized.after[:, dimension], values[nearest])
        assert len(quantized.after[:, dimension].unique()) == levels


def test_codebook_takes_the_code_of_the_smallest_angle() -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(CONFIGS[2], width=16)
    quantized = quantizer(torch.randn(200, 16))
    codes = torch.nn.functional.normalize(quantizer.codes, dim=-1)
    distance = torch.cdist(quantized.before, codes)
    assert torch.equal(quantized.ids, distance.argmin(1))
    assert torch.allclose(quantized.before.norm(dim=-1), torch.ones(200))


def test_codebook_loss_moves_codes_and_latents_towards_each_other() -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(CONFIGS[2], width=16)
    latents = torch.randn(200, 16)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    first = quantizer.loss(quantizer(latents)).item()
    for _ in range(50):
        optimizer.zero_grad()
        quantizer.loss(quantizer(latents)).backward()
        optimizer.step()
    assert quantizer.loss(quantizer(latents)).item() < first / 2
    assert quantizer.codes.grad is not None
    assert quantizer.project_in.weight.grad is not None


def test_dead_codes_restart_until_most_are_used() -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(QuantizerConfig(kind="codebook", codebook_size=64, code_dim=4), width=8)
    with torch.no_grad():  # collapse: all codes but one look away from all latents
        quantizer.project_in.weight.zero_()
        quantizer.project_in.weight[:, :4] = torch.eye(4)
        quantizer.project_in.bias.copy_(torch.tensor([3.0, 0, 0, 0]))
        quantizer.codes.copy_(torch.tensor([-1.0, 0, 0, 0]).repeat(64, 1) + 0.01 * torch.randn(64, 4))
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(2000, 8)
    before = code_usage(quantizer(latents).ids, 64)[1]
    for _ in range(2000):
        quantizer.restart_dead_codes(quantizer(latents), rng)
    assert before < 0.3
    assert code_usage(quantizer(latents).ids, 64)[1] > 0.9


def test_usage_of_known_codes() -> None:
    assert code_usage(torch.arange(8), 8) == pytest.approx((8.0, 1.0))
    assert code_usage(torch.zeros(100, dtype=torch.long), 8) == pytest.approx((1.0, 1 / 8))


@pytest.mark.parametrize("wrong", [{"levels": ()}, {"levels": (8, 1)}, {"kind": "codebook", "codebook_size": 1}])
def test_impossible_quantizers_are_refused(wrong: dict) -> None:
    with pytest.raises(PhenakiError):
        QuantizerConfig(**wrong)
