"""Codes of FSQ that share levels learn from each other."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from phenaki.core.config import override
from phenaki.core.errors import PhenakiError
from phenaki.generators import Generator, MaskedTransformer, MaskedTransformerSizes
from phenaki.tokenizers import TokenizerSpec
from phenaki.tokenizers.quantizers import FSQ, QuantizerConfig
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.recipes import causal_laptop_64
from phenaki.training.tied_rows import TiedRowsAdamW


def make_generator(vocab_size: int) -> MaskedTransformer:
    spec = TokenizerSpec(vocab_size, (1, 8, 8), (16, 16), 8.0, 2)
    return MaskedTransformer(MaskedTransformerSizes(frames=3, width=64, layers=1).config(spec, 64))


def test_levels_of_codes_are_those_that_the_codes_decode_to() -> None:
    config = QuantizerConfig(levels=(3, 2, 4, 3, 2, 4), num_codebooks=2)
    quantizer = FSQ(config, 8)
    levels = quantizer.levels_of_codes()
    assert levels.shape == (2, 24, 9) and (levels.sum(-1) == 3).all()
    codes = torch.arange(24)
    values = quantizer.indices_to_codes(torch.stack((codes, codes), -1)).view(24, 2, 3)
    for codebook in range(2):
        for code in range(24):
            same = (values[:, codebook] == values[code, codebook]).sum(-1)
            assert torch.equal(levels[codebook] @ levels[codebook, code], same.float())


def test_it_takes_the_steps_of_adamw_on_both_terms_of_the_sum() -> None:
    """Against torch's AdamW with the terms as parameters of their own."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4))
    levels = torch.eye(2).repeat(3, 1)
    rows, shared = nn.Parameter(weight.detach().clone()), nn.Parameter(torch.zeros(2, 4))
    optimizer = TiedRowsAdamW({weight: levels}, lr=0.1, betas=(0.9, 0.99))
    expected = torch.optim.AdamW([rows, shared], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(5):
        inputs, targets = torch.randn(3, 4), torch.randn(3, 6)
        for each, of in ((weight, optimizer), (rows + levels @ shared, expected)):
            of.zero_grad()
            (inputs @ each.T - targets).square().mean().backward()
            of.step()
    assert torch.allclose(weight, rows + levels @ shared, atol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(4, 2))
    optimizer = TiedRowsAdamW({weight: torch.ones(4, 1)}, lr=0.1, betas=(0.9, 0.99))
    weight.grad = torch.ones(4, 2)
    optimizer.step()
    before = weight.detach().clone(), {key: value.clone() for key, value in optimizer.state[weight].items()}
    weight.grad, optimizer.found_inf = torch.full((4, 2), torch.nan), torch.ones(())
    optimizer.step()
    assert torch.equal(weight, before[0])
    assert all(torch.equal(value, before[1][key]) for key, value in optimizer.state[weight].items())


def test_a_rare_code_learns_from_those_that_share_its_levels() -> None:
    quantizer = FSQ(QuantizerConfig(levels=(4, 4, 4, 4), num_codebooks=2), 8)
    generator = make_generator(quantizer.vocab_size)
    levels = generator.tie_levels(quantizer.levels_of_codes())
    optimizers = Optimizers([generator], OptimizerConfig(lr=0.1, warmup_steps=0, weight_decay=0.0), 10, levels)
    before, mask = generator.ids.weight.detach().clone(), generator.ids.weight[16].detach().clone()
    assert (
        sum(generator.head.weight is weight or generator.ids.weight is weight for weight in optimizers.parameters) == 2
    )
    generator.embed_ids(torch.tensor([[[[0, 0]]]])).sum().backward()
    optimizers.update(0)
    moved = (generator.ids.weight - before).abs().amax(1) > 0.01
    share = [code for code in range(16) if code % 4 == 0 or code < 4]  # with code 0
    assert moved[:17].nonzero().flatten().tolist() == share
    assert torch.equal(generator.ids.weight[16], mask)


def test_its_state_is_saved_and_restored() -> None:
    quantizer = FSQ(QuantizerConfig(levels=(4, 4, 4, 4), num_codebooks=2), 8)
    generator = make_generator(quantizer.vocab_size)

    def optimizers() -> Optimizers:
        levels = generator.tie_levels(quantizer.levels_of_codes())
        return Optimizers([generator], OptimizerConfig(lr=0.1, warmup_steps=0, weight_decay=0.0), 10, levels)

    def step(taken: Optimizers, number: int) -> None:
        generator.embed_ids(torch.tensor([[[[number, 0]]]])).square().sum().backward()
        taken.update(number)

    first = optimizers()
    step(first, 0)
    weights, state = generator.ids.weight.detach().clone(), deepcopy(first.state_dict())
    step(first, 1)
    after = generator.ids.weight.detach().clone()
    with torch.no_grad():
        generator.ids.weight.copy_(weights)
    second = optimizers()
    second.load_state_dict(state)
    step(second, 1)
    assert torch.equal(generator.ids.weight, after)


def test_a_restored_state_is_on_the_device_of_the_weights() -> None:
    def optimizer(device: str) -> tuple[nn.Parameter, TiedRowsAdamW]:
        weight = nn.Parameter(torch.ones(4, 2, device=device))
        weight.grad = torch.ones_like(weight)
        made = TiedRowsAdamW({weight: torch.ones(4, 1)}, lr=0.1, betas=(0.9, 0.99))
        made.found_inf = torch.zeros((), device=device)
        return weight, made

    _, saved = optimizer("cpu")
    saved.step()
    weight, restored = optimizer("meta")
    restored.load_state_dict(saved.state_dict())
    restored.step()
    assert {value.device.type for value in restored.state[weight].values()} == {"meta"}


def test_sharded_weights_do_not_tie_levels() -> None:
    with pytest.raises(PhenakiError, match="tie_levels needs whole weights"):
        override(causal_laptop_64(), ["run.strategy=fsdp"])


def test_a_generator_of_another_kind_ties_none() -> None:
    generator = make_generator(16)
    assert Generator.tie_levels(generator, torch.ones(2, 16, 8)) == {}
    assert len(Optimizers([generator], OptimizerConfig(), 10, {}).parameters) == len(list(generator.parameters()))
