"""What a training step costs is what it turns out to cost."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from phenaki.conditioning import NoTextConfig
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.tokenizers import TokenizerSpec, build_tokenizer
from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.training import critic, generator, recipes, tokenizer
from phenaki.training.cost import step_cost
from phenaki.training.counting import PeakMemory
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.gradients import accumulate_gradients
from phenaki.training.inputs import Inputs
from phenaki.training.masking import make_micro_batches
from phenaki.training.optim import Optimizers
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerRecipe, TokenizerTrainer


def spec(name: str) -> TokenizerSpec:
    with torch.device("meta"):
        return build_tokenizer(recipes.TOKENIZER_RECIPES[name]().tokenizer).spec


def in_float32(recipe):
    return replace(recipe, run=replace(recipe.run, precision="float32", device="cpu"))


@pytest.fixture
def debug() -> GeneratorRecipe:
    return in_float32(recipes.masked_debug())


class RealStep:
    """The training step of a recipe on the CPU."""

    def __init__(self, recipe: GeneratorRecipe):
        torch.manual_seed(0)
        self.recipe = recipe
        inputs = Inputs(spec("cvivit_debug"), "", None, None, recipe.text.width, "", True, None, True)
        self.trained = generator.build_networks(recipe, inputs)
        text_encoder, critic = self.trained["text_encoder"], self.trained.get("critic")
        self.networks = Components(self.trained["generator"], text_encoder=text_encoder, critic=critic)
        ids, words = torch.randint(512, (4, 3, 4, 4)), text_encoder.tokenize(["word " * 64] * 4)
        free, masked = torch.ones(4, 3, 4, 4).bool(), torch.zeros(192).bool()
        masked[torch.randperm(192)[:122]] = True  # 2 / pi of 192
        uniform = None if critic is None else torch.rand(122, 1)
        self.micro_batches = make_micro_batches(
            ids, words, (free, masked.view_as(free)), torch.zeros(4).bool(), uniform
        )

    def loss(self) -> torch.Tensor:
        return generator.compute_loss(self.networks, self.micro_batches[0], self.recipe, nullcontext)[0]

    def accumulate(self) -> tuple[torch.Tensor, dict[str, torch.Tensor], list]:
        compute_loss = lambda part: generator.compute_loss(self.networks, part, self.recipe, nullcontext)  # noqa: E731
        return accumulate_gradients(self.micro_batches, compute_loss)

    def optimizers(self) -> list[Optimizers]:
        return list(generator.build_optimizers(self.trained, self.recipe).values())

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for network in self.trained.values() for parameter in network.parameters()]


def counted_by_torch(step) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it cannot see into the CPU's kernel
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["none", "token", "self"])
def test_operations_of_a_generator_are_those_of_torchs_counter(debug: GeneratorRecipe, kind: str) -> None:
    recipe = replace(debug, critic=replace(debug.critic, kind=kind))
    step = RealStep(recipe)
    optimizers = step.optimizers()
    cost = step_cost(recipe, spec("cvivit_debug"))
    assert cost.flops == counted_by_torch(lambda: (step.accumulate(), *(each.update(0) for each in optimizers)))
    assert cost.tokens == 192
    assert ("critic" in cost.parameters) == (kind != "none")


def test_a_change_of_the_step_changes_the_plan(debug: GeneratorRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = (
        (generator, (debug, spec("cvivit_debug"))),
        (tokenizer, (recipes.cvivit_debug(),)),
        (critic, (recipes.critic_debug(), spec("cvivit_debug"), None, "cuda", debug)),
    )
    for module, arguments in plans:
        before, compute_loss = step_cost(*arguments).flops, module.compute_loss
        twice = lambda *args, loss=compute_loss, **rest: (loss(*args, **rest), loss(*args, **rest))[1]  # noqa: E731
        monkeypatch.setattr(module, "compute_loss", twice)
        assert step_cost(*arguments).flops > before, module.__name__


def test_a_critic_beside_a_frozen_generator(debug: GeneratorRecipe) -> None:
    cost = step_cost(recipes.critic_debug(), spec("cvivit_debug"), model=debug)
    beside = step_cost(replace(debug, critic=recipes.critic_debug().critic), spec("cvivit_debug"))
    assert sum(cost.parameters.values()) == beside.parameters["critic"]
    assert cost.flops < beside.flops  # no backward pass through the generator
    assert cost.bytes["frozen networks"] > 0


@pytest.mark.parametrize("kind", ["none", "token", "self"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole_batch(debug: GeneratorRecipe, kind: str) -> None:
    """With masks, lengths of texts and dropped texts that differ between the samples."""
    recipe = replace(debug, critic=replace(debug.critic, kind=kind))
    step, rng = RealStep(recipe), torch.Generator().manual_seed(1)
    ids, words = (
        torch.randint(512, (5, 3, 4, 4)),
        step.networks.text_encoder.tokenize(["word " * n for n in range(1, 6)]),
    )
    masks = recipe.prefix.draw_masks(torch.arange(5) % 2 == 1, (3, 4, 4), rng, rng)
    uniform = torch.rand(int(masks[1].sum()), 1, generator=rng)
    found = []
    for count in (1, 2, 3):
        step.micro_batches = make_micro_batches(
            ids, words, masks, torch.arange(5) == 2, uniform, first_frame_weight=2.0, count=count
        )
        assert len(step.micro_batches) == count
        _, losses, _ = step.accumulate()
        found.append((losses, [parameter.grad for parameter in step.parameters()]))
        for parameter in step.parameters():
            parameter.grad = None
    for losses, gradients in found[1:]:
        assert all(losses[name].item() == pytest.approx(loss.item(), rel=1e-5) for name, loss in found[0][0].items())
        for one, other in zip(found[0][1], gradients, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


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
    assert step_cost(recipe, hardware="cpu").flops == counted_by_torch(lambda: training.update(video, 0))


def test_a_penalty_costs_its_share_of_the_steps() -> None:
    def flops(**values: float) -> int:
        recipe = adversarial()
        return step_cost(replace(recipe, discriminator=replace(recipe.discriminator, **values)), clips=1).flops

    without, always, seldom = flops(), flops(penalty=1.0, penalty_every=1), flops(penalty=1.0, penalty_every=4)
    assert always > without
    assert seldom - without == pytest.approx((always - without) / 4, abs=1)


def test_memory_is_what_a_step_holds(debug: GeneratorRecipe) -> None:
    step, cost = RealStep(debug), step_cost(debug, spec("cvivit_debug"), hardware="cpu")
    with PeakMemory(step.parameters()) as peak:
        step.accumulate()
    assert cost.bytes["activations"] == pytest.approx(peak.bytes, rel=0.01)
    weights = cost.bytes["weights"]
    assert cost.peak == pytest.approx(
        2 * weights + cost.bytes["optimizer"] + max(weights, peak.with_gradients), rel=0.01
    )
    parameters = sum(parameter.numel() for parameter in step.parameters())
    assert sum(cost.parameters.values()) == parameters
    assert weights == cost.bytes["gradients"] == cost.bytes["averages"] == 4 * parameters
    (optimizers,) = step.optimizers()
    optimizers.update(0)
    states = [state for optimizer in optimizers.optimizers for state in optimizer.state.values()]
    held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))
    assert cost.bytes["optimizer"] == held


def test_views_of_weights_take_no_memory() -> None:
    """The adversarial loss reads the discriminator's weights without their gradients."""
    weight = torch.nn.Parameter(torch.zeros(1000))
    with PeakMemory([weight]) as peak:
        doubled = 2 * weight.detach()
    assert peak.bytes == doubled.nbytes


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
    assert held < step_cost(debug, spec("cvivit_debug"), hardware="cpu").bytes["activations"] < 1.5 * held


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
    cost = step_cost(recipe, spec("cvivit_128"))
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
        network = MaskedTransformer(recipe.generator.config(spec("cvivit_128"), recipe.text.width))
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network.layers[0].attention.heads == recipe.generator.width // 64


def test_less_text_costs_less(debug: GeneratorRecipe) -> None:
    cost = step_cost(debug, spec("cvivit_debug"))
    without = step_cost(replace(debug, text=NoTextConfig()), spec("cvivit_debug"))
    assert without.flops < cost.flops and "text_encoder" in cost.parameters.keys() - without.parameters.keys()
    assert without.bytes["activations"] < cost.bytes["activations"]


def test_what_cannot_be_told_is_refused(debug: GeneratorRecipe) -> None:
    with pytest.raises(PhenakiError, match="data.size 32 must equal"):
        step_cost(debug, spec("cvivit_128"))
