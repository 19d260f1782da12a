"""What a training step costs, known before anything is allocated.

The step itself runs on the meta device, where tensors have shapes and no data, so the counts follow the code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phenaki.conditioning import Text, TextConfig, encoder_class
from phenaki.conditioning.words import WORD_BYTES
from phenaki.core.memory import without_memory
from phenaki.core.precision import Autocast
from phenaki.generators import Components, build_generator
from phenaki.generators.critic import build_critic
from phenaki.generators.losses import MaskedCrossEntropy
from phenaki.nn.block import Block
from phenaki.perceptual import I3D, LPIPS, PerceptualNetworks
from phenaki.tokenizers import TokenizerSpec
from phenaki.training import critic, generator, tokenizer
from phenaki.training.counting import Flops, Hardware, HardwareMode, PeakMemory, Traffic
from phenaki.training.critic import CriticRecipe
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.inputs import Inputs
from phenaki.training.layers import blocks
from phenaki.training.masking import GeneratorBatch
from phenaki.training.optim import Optimizers
from phenaki.training.sharding import shardable
from phenaki.training.tokenizer import TokenizerBatch, TokenizerNetworks, TokenizerRecipe
from phenaki.training.trainer import Networks

_MASK_RATIO = 0.6366  # 2 / pi, the mean of the cosine schedule

Recipe = TokenizerRecipe | GeneratorRecipe | CriticRecipe


@dataclass(frozen=True)
class Cost:
    """The cost of a training step on the longest clips, in one process.

    parameters: of each network in training. tokens: ids in the step. flops: forward, backward and optimizers, a
    multiply-add being two. bytes: by what they hold, each kind at its own peak, so that their sum bounds `peak`, the
    most at one time. shardable: bytes of the weights that run.strategy fsdp shards; largest_block: of those of the
    largest block. traffic: kernels and bytes moved by a micro-batch, without the discriminator's penalty.
    """

    parameters: dict[str, int]
    tokens: int
    flops: int
    bytes: dict[str, int]
    peak: int
    shardable: int
    largest_block: int
    traffic: Traffic


def step_cost(
    recipe: Recipe,
    spec: TokenizerSpec | None = None,
    clips: int | None = None,
    hardware: Hardware = "cuda",
    model: GeneratorRecipe | None = None,
) -> Cost:
    """The cost of a step on so many clips (None: the recipe's batch); nothing is allocated.

    spec: of the tokenizer of a generator's ids. model: the recipe of the generator that a critic scores. Tokenizers
    and frozen text encoders, whose outputs token shards can hold, are not counted. hardware: "cpu" is this
    machine's. Weights, gradients, moving averages and optimizer states are float32.
    Raises PhenakiError for a recipe whose sections do not fit.
    """
    clips = recipe.data.batch if clips is None else clips
    micro_batch = math.ceil(clips / recipe.optimizer.accumulate)
    mode = HardwareMode(hardware, recipe.run.precision)
    with without_memory("the recipe"):
        step = make_step(recipe, spec, model)
        optimizer_flops, states = _optimizers_cost(step)
        if recipe.run.checkpointing:
            _checkpoint(step, mode)
        parameters = [parameter for network in step.networks.values() for parameter in network.parameters()]
        with mode, Flops() as counter, PeakMemory(parameters) as peak:
            step.run(micro_batch, mode.autocast, True)
        flops, traffic = counter.total, Traffic()
        if hardware == "cuda" and recipe.run.compile is not False:
            traffic.fuse([*step.blocks, *blocks(step.frozen)])
        with mode, traffic:
            step.run(micro_batch, mode.autocast, False)
        if step.penalty_every is not None:
            with mode, Flops() as counter:
                step.run(micro_batch, mode.autocast, False)
            flops = counter.total + (flops - counter.total) // step.penalty_every
    weights = 4 * _count(step.networks.values())
    shards = [4 * _count(shardable([block])) for block in blocks(step.networks.values())]
    sizes = {
        "weights": weights,
        "frozen networks": 4 * _count(step.frozen),
        "gradients": weights,
        "optimizer": states,
        "averages": 4 * _count(list(step.networks.values())[: step.averaged]),
        "activations": peak.bytes,
    }
    return Cost(
        parameters=step.parameters_by_component(),
        tokens=clips * math.prod(step.grid),
        flops=optimizer_flops + flops * clips // micro_batch,
        bytes={kind: size for kind, size in sizes.items() if size},
        peak=sum(sizes.values()) - weights - peak.bytes + max(weights, peak.with_gradients),
        shardable=sum(shards),
        largest_block=max(shards, default=0),
        traffic=traffic,
    )


@dataclass(frozen=True)
class Step:
    """The networks of a stage on the meta device, and its real training step with inputs of zeros.

    networks: those in training, by name, the first that with most components. run: forward and backward passes for one
    micro-batch of so many clips, in this autocast, with or without the discriminator's penalty. grid: ids of a clip.
    averaged: how many of the networks, from the first on, have a moving average. frozen: networks of the losses.
    penalty_every: how often a step has the penalty; None for never.
    """

    networks: Networks
    optimizers: dict[str, Optimizers]
    run: Callable[[int, Autocast, bool], object]
    grid: tuple[int, int, int]
    averaged: int
    frozen: Sequence[nn.Module] = ()
    penalty_every: int | None = None
    loss_blocks: Sequence[Block] = ()

    @property
    def blocks(self) -> list[Block]:
        """All that training compiles and checkpoints."""
        return [*blocks(self.networks.values()), *self.loss_blocks]

    def parameters_by_component(self) -> dict[str, int]:
        """Of the first network by its children, all layers in one, and of the others."""
        counts: Counter[str] = Counter()
        first = next(iter(self.networks))
        for network, module in self.networks.items():
            for name, parameter in module.named_parameters():
                counts[name.partition(".")[0] if network == first else network] += parameter.numel()
        return dict(counts.most_common())


def _tokenizer_step(recipe: TokenizerRecipe) -> Step:
    """With all losses of the recipe, at a step at which the discriminator has started."""
    config, frames, size = recipe.discriminator, max(recipe.data.lengths), recipe.tokenizer.image_size
    recipe.data.check_tokenizer(size, recipe.tokenizer.fps, recipe.tokenizer.patch)
    trained, adversarial = tokenizer.build_networks(recipe), bool(recipe.loss.adversarial)
    perceptual = PerceptualNetworks(LPIPS() if recipe.loss.lpips else None, I3D() if recipe.loss.i3d else None)
    frozen = [network.eval().requires_grad_(False) for network in perceptual if network is not None]
    networks = TokenizerNetworks(**trained, perceptual=perceptual)

    def run(clips: int, autocast: Autocast, penalize: bool) -> None:
        video = torch.zeros(clips, 3, frames, *size)
        micro_batch = TokenizerBatch(video, torch.arange(min(recipe.loss.frames or frames, frames)))
        objective, _, out = tokenizer.compute_loss(networks, micro_batch, recipe, autocast, adversarial)
        objective.backward()
        if adversarial:
            penalize = penalize and bool(config.penalty)
            tokenizer.compute_discriminator_loss(networks, micro_batch, out.video, recipe, autocast, penalize)[
                0
            ].backward()

    grid = networks.tokenizer.grid(frames, *size)
    penalty_every = config.penalty_every if adversarial and config.penalty else None
    return Step(trained, tokenizer.build_optimizers(trained, recipe), run, grid, 1, frozen, penalty_every)


def _generator_step(recipe: GeneratorRecipe, spec: TokenizerSpec) -> Step:
    """On the longest clips with the longest texts, and a critic if the recipe has one."""
    learns, grid = encoder_class(recipe.text).learned, _grid(recipe, spec)
    inputs = Inputs(spec, "", None, None, recipe.text.width, "" if learns else "frozen", learns, None, True)
    trained = generator.build_networks(recipe, inputs)
    components, cross_entropy = inputs.components(trained), MaskedCrossEntropy()

    def run(clips: int, autocast: Autocast, penalize: bool) -> None:
        text = (
            torch.zeros(clips, recipe.text.max_words, WORD_BYTES).long() if learns else _embeddings(clips, recipe.text)
        )
        batch = _masked_batch(clips, grid, text, components.critic is not None)
        batch = replace(batch, clean=batch.ids if components.generator.has_cache else None)
        generator.compute_loss(components, batch, recipe, autocast, cross_entropy=cross_entropy)[0].backward()

    return Step(
        trained, generator.build_optimizers(trained, recipe), run, grid, len(trained), loss_blocks=[cross_entropy]
    )


def _critic_step(recipe: CriticRecipe, spec: TokenizerSpec, model: GeneratorRecipe) -> Step:
    """Beside a generator that stays frozen and comes from another recipe, as does its text."""
    frozen = build_generator(model.generator, spec, model.text.width).requires_grad_(False)
    trained, grid = {"critic": build_critic(recipe.critic, frozen)}, _grid(recipe, spec)
    components = Components(frozen, critic=trained["critic"])

    def run(clips: int, autocast: Autocast, penalize: bool) -> None:
        batch = _masked_batch(clips, grid, _embeddings(clips, model.text), True)
        critic.compute_loss(components, batch, recipe, autocast)[0].backward()

    return Step(trained, critic.build_optimizers(trained, recipe), run, grid, 1, [frozen])


def _grid(recipe: GeneratorRecipe | CriticRecipe, spec: TokenizerSpec) -> tuple[int, int, int]:
    recipe.data.check_tokenizer(spec.image_size, spec.fps, spec.patch)
    return spec.grid(max(recipe.data.lengths), *spec.image_size)


def _embeddings(clips: int, config: TextConfig) -> Text:
    length = getattr(config, "max_words", getattr(config, "length", 0))
    return Text(torch.zeros(clips, length, config.width), torch.zeros(clips, length, dtype=torch.bool))


def _masked_batch(clips: int, grid: tuple[int, int, int], text: Text | Tensor, critic: bool) -> GeneratorBatch:
    """Every id is to be generated, and as many are masked as on average."""
    ids = torch.zeros(clips, *grid, dtype=torch.long)
    masked = round(_MASK_RATIO * ids.numel())
    return GeneratorBatch(
        ids=ids,
        text=text,
        dropped=torch.zeros(clips, dtype=torch.bool),
        where=torch.arange(masked),
        weight=torch.ones(masked),
        free=torch.arange(ids.numel()),
        uniform=torch.zeros(masked, 1) if critic else None,
    )


def make_step(recipe: Recipe, spec: TokenizerSpec | None, model: GeneratorRecipe | None = None) -> Step:
    """The networks of a recipe, on torch's default device, and its training step; arguments as of `step_cost`."""
    if isinstance(recipe, TokenizerRecipe):
        return _tokenizer_step(recipe)
    return _critic_step(recipe, spec, model) if isinstance(recipe, CriticRecipe) else _generator_step(recipe, spec)


def _checkpoint(step: Step, mode: HardwareMode) -> None:
    for layer in step.blocks:
        options = {"use_reentrant": False, "preserve_rng_state": False}
        context = lambda: (nullcontext(), mode.recompute())  # noqa: E731
        layer.forward = partial(checkpoint, layer.forward, context_fn=context, **options)


def _count(networks: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def _optimizers_cost(step: Step) -> tuple[int, int]:
    """Operations of the optimizers' step, and bytes of their state."""
    states: list[Tensor] = []
    with Flops() as counter:
        for optimizers in step.optimizers.values():
            for parameter in optimizers.parameters:
                parameter.grad = torch.zeros_like(parameter)
            for optimizer in optimizers.optimizers:
                for group in optimizer.param_groups:
                    group["fused"] = False  # not available on the meta device; its state is the same
                with torch.device("cpu"):  # AdamW of torch 2.9 reads its number of steps, which is there
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                states += [value for state in optimizer.state.values() for value in state.values()]
    return counter.total, sum(value.nbytes for value in states if isinstance(value, Tensor))
