"""What a training step costs is what it turns out to cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from phenaki.conditioning import NoTextConfig, Text, encoder_class
from phenaki.core.errors import PhenakiError
from phenaki.generators import MaskedTransformer
from phenaki.generators.losses import masked_cross_entropy
from phenaki.tokenizers import TokenizerFacts, build_tokenizer
from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.training import recipes
from phenaki.training.cost import step_cost
from phenaki.training.counting import PeakMemory
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.optim import Optimizers
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerRecipe, TokenizerTrainer


def facts(name: str) -> TokenizerFacts:
    with torch.device("meta"):
        return build_tokenizer(recipes.TOKENIZER_RECIPES[name]().tokenizer).facts


def in_float32(recipe):
    return replace(recipe, run=replace(recipe.run, precision="float32", device="cpu"))


@pytest.fixture
def debug() -> GeneratorRecipe:
    return in_float32(recipes.masked_debug())


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


def counted_by_torch(step) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it cannot see into the CPU's kernel
        step()
    return counter.get_total_flops()


def test_operations_of_a_generator_are_those_of_torchs_counter(debug: GeneratorRecipe) -> None:
    step = RealStep(debug)
    optimizers = Optimizers([step.generator, step.reader], debug.optimizer, 10)
    cost = step_cost(debug, facts("cvivit_debug"))
    assert cost.flops == counted_by_torch(lambda: (step.loss().backward(), optimizers.update(0)))
    assert cost.tokens == 192


def adversarial() -> TokenizerRecipe:
    recipe = recipes.conv3d_debug()
    discriminator = DiscriminatorConfig(width=8, blocks=2, penalty=0)  # torch's counter bears no second derivative
    return replace(recipe, loss=replace(recipe.loss, adversarial=0.1), discriminator=discriminator)


@pytest.mark.parametrize(
    "recipe", [recipes.cvivit_debug(), recipes.cvivit_debug_codebook(), recipes.conv3d_debug(), adversarial()]
)
def test_operations_of_a_tokenizer_are_those_of_torchs_counter(recipe: TokenizerRecipe, tmp_path: Path) -> None:
    recipe = in_float32(recipe)
    training = TokenizerTrainer(recipe, Run(tmp_path, recipe.run, recipe))
    video = torch.rand(4, 3, 5, 32, 32)
    assert step_cost(recipe).flops == counted_by_torch(lambda: training.update(video, 0))


def test_a_penalty_costs_its_share_of_the_steps() -> None:
    def flops(**values: float) -> int:
        recipe = adversarial()
        return step_cost(replace(recipe, discriminator=replace(recipe.discriminator, **values)), clips=1).flops

    without, always, seldom = flops(), flops(penalty=1.0, penalty_every=1), flops(penalty=1.0, penalty_every=4)
    assert always > without
    assert seldom - without == pytest.approx((always - without) / 4, abs=1)


def test_memory_is_what_a_step_holds(debug: GeneratorRecipe) -> None:
    step, cost = RealStep(debug), step_cost(debug, facts("cvivit_debug"), hardware="cpu")
    with PeakMemory(step.parameters()) as peak:
        step.loss().backward()
    assert cost.bytes["activations"] == pytest.approx(peak.bytes, rel=0.01)
    weights = cost.bytes["weights"]
    assert cost.peak == pytest.approx(
        2 * weights + cost.bytes["optimizer"] + max(weights, peak.with_gradients), rel=0.01
    )
    parameters = sum(parameter.numel() for parameter in step.parameters())
    assert sum(cost.parameters.values()) == parameters
    assert weights == cost.bytes["gradients"] == cost.bytes["averages"] == 4 * parameters
    optimizers = Optimizers([step.generator, step.reader], debug.optimizer, 10)
    optimizers.update(0)
    states = [state for optimizer in optimizers.optimizers for state in optimizer.state.values()]
    held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))
    assert cost.bytes["optimizer"] == held


def test_the_peak_is_at_least_what_the_backward_pass_needs(debug: GeneratorRecipe) -> None:
    step = RealStep(debug)
    known = {parameter.untyped_storage().data_ptr() for parameter in step.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.loss()
    del loss
    held = sum(kept.values())
    assert held < step_cost(debug, facts("cvivit_debug"), hardware="cpu").bytes["activations"] < 1.5 * held


@pytest.mark.parametrize("hardware", ["cpu", "cuda"])
def test_bfloat16_and_checkpointing_need_less(hardware: str) -> None:
    def cost(**values: object):
        recipe = recipes.conv3d_debug()
        return step_cost(replace(recipe, run=replace(recipe.run, **values)), clips=4, hardware=hardware)

    full, half = cost(precision="float32"), cost(precision="bfloat16")
    again = cost(precision="bfloat16", checkpointing=True)
    assert full.flops == half.flops < again.flops < 1.4 * half.flops
    assert full.bytes["activations"] > half.bytes["activations"] > again.bytes["activations"]
    assert full.bytes["weights"] == half.bytes["weights"]  # masters stay in float32


def test_the_parts_of_a_batch_need_a_part_of_the_activations() -> None:
    recipe = recipes.conv3d_debug()
    parted = replace(recipe, optimizer=replace(recipe.optimizer, accumulate=4))
    assert step_cost(parted).bytes["activations"] == step_cost(recipe, clips=1).bytes["activations"]
    assert step_cost(parted).flops == step_cost(recipe).flops


@pytest.mark.slow
def test_the_papers_sizes_fit_nowhere_and_are_known() -> None:
    recipe = recipes.paper()
    cost = step_cost(recipe, facts("cvivit_128"))
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
    cost = step_cost(debug, facts("cvivit_debug"))
    without = step_cost(replace(debug, text=NoTextConfig()), facts("cvivit_debug"))
    assert without.flops < cost.flops and "text encoder" in cost.parameters.keys() - without.parameters.keys()
    assert without.bytes["activations"] < cost.bytes["activations"]


def test_what_cannot_be_told_is_refused(debug: GeneratorRecipe) -> None:
    with pytest.raises(PhenakiError, match="data.size 32 does not fit"):
        step_cost(debug, facts("cvivit_128"))
    with pytest.raises(PhenakiError, match="no plan counts critics"):
        step_cost(replace(debug, critic=replace(debug.critic, kind="token")), facts("cvivit_debug"))
