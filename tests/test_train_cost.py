"""What a training costs is what it turns out to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from phenaki import recipes
from phenaki.errors import PhenakiError
from phenaki.generator import MaskedTransformer
from phenaki.generator.losses import masked_cross_entropy
from phenaki.text import NoTextConfig, Text, encoder_class
from phenaki.tokenizer import TokenizerFacts, build_tokenizer
from phenaki.train.cost import generator_cost
from phenaki.train.generator import GeneratorRecipe
from phenaki.train.optim import Optimizers


def facts(name: str) -> TokenizerFacts:
    with torch.device("meta"):
        return build_tokenizer(recipes.TOKENIZER_RECIPES[name]().tokenizer).facts


@pytest.fixture
def debug() -> GeneratorRecipe:
    """A batch large enough that the masked share of its ids comes near its mean."""
    recipe = recipes.masked_debug()
    return replace(recipe, run=replace(recipe.run, precision="float32"))


class RealStep:
    """A step of the debug recipe on the CPU, as training makes it."""

    def __init__(self, recipe: GeneratorRecipe):
        torch.manual_seed(0)
        self.generator = MaskedTransformer(recipe.generator.config(facts("cvivit_debug"), recipe.text.width))
        self.reader = encoder_class(recipe.text)(recipe.text)
        self.words = self.reader.tokenize(["word " * 64] * 4)
        self.ids = torch.randint(512, (4, 3, 4, 4))
        self.masked = torch.zeros(self.ids.numel()).bool()
        self.masked[torch.randperm(len(self.masked))[:122]] = True  # 2 / pi of 192
        self.masked = self.masked.view_as(self.ids)

    def loss(self) -> torch.Tensor:
        text: Text = self.generator.drop(self.reader(self.words), torch.zeros(4).bool())
        ids = self.ids.masked_fill(self.masked, self.generator.mask_id)
        features = self.generator.features(ids, self.generator.context(text), text.mask)
        logits = self.generator.head(features[self.masked])
        return masked_cross_entropy(logits, self.ids[self.masked], torch.ones(len(logits)), 0.1)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.generator.parameters(), *self.reader.parameters()]


def test_operations_are_those_of_torchs_counter(debug: GeneratorRecipe) -> None:
    step = RealStep(debug)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it cannot see into the CPU's kernel
        step.loss().backward()
    cost = generator_cost(debug, facts("cvivit_debug"))
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert cost.tokens == 192
    twice = replace(debug, data=replace(debug.data, batch=8))
    assert generator_cost(twice, facts("cvivit_debug")).flops == pytest.approx(2 * cost.flops, rel=0.01)


def test_memory_is_what_a_step_holds(debug: GeneratorRecipe) -> None:
    step, cost = RealStep(debug), generator_cost(debug, facts("cvivit_debug"))
    known = {parameter.untyped_storage().data_ptr() for parameter in step.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.loss()
    assert cost.bytes["activations"] == pytest.approx(sum(kept.values()), rel=0.01)
    loss.backward()
    parameters = sum(parameter.numel() for parameter in step.parameters())
    assert sum(cost.parameters.values()) == parameters
    assert cost.bytes["weights"] == cost.bytes["gradients"] == cost.bytes["averages"] == 4 * parameters
    optimizers = Optimizers([step.generator, step.reader], debug.optimizer, 10)
    optimizers.update(0)
    states = [state for optimizer in optimizers.optimizers for state in optimizer.state.values()]
    held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))
    assert cost.bytes["optimizer"] == held


def test_the_papers_sizes_fit_nowhere_and_are_known() -> None:
    recipe = recipes.paper()
    cost = generator_cost(recipe, facts("cvivit_128"))
    assert 1.75e9 < sum(cost.parameters.values()) < 1.9e9
    assert cost.tokens == 512 * 6 * 16 * 16
    matrices = 24 * (4 + 2 + 8) * 2048**2  # of self-attention, queries and output of cross-attention, feed-forward
    assert cost.flops > 6 * matrices * cost.tokens
    assert (recipe.optimizer.lr, recipe.data.batch, recipe.run.steps) == (1e-4, 512, 1_000_000)
    assert recipe.loss.text_drop == 0.1 and recipe.text.width == 4096


@pytest.mark.parametrize("name", ["base_128", "paper"])
def test_large_recipes_build_on_the_meta_device(name: str) -> None:
    recipe = recipes.GENERATOR_RECIPES[name]()
    with torch.device("meta"):
        generator = MaskedTransformer(recipe.generator.config(facts("cvivit_128"), recipe.text.width))
    assert all(parameter.is_meta for parameter in generator.parameters())
    assert generator.layers[0].attention.heads == recipe.generator.width // 64


def test_less_text_costs_less(debug: GeneratorRecipe) -> None:
    cost = generator_cost(debug, facts("cvivit_debug"))
    without = generator_cost(replace(debug, text=NoTextConfig()), facts("cvivit_debug"))
    assert without.flops < cost.flops and "text encoder" in cost.parameters.keys() - without.parameters.keys()
    assert without.bytes["activations"] < cost.bytes["activations"]


def test_another_tokenizer_is_refused(debug: GeneratorRecipe) -> None:
    with pytest.raises(PhenakiError, match="data.size 32 does not fit"):
        generator_cost(debug, facts("cvivit_128"))
