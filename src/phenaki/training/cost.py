"""What a training step costs, known before anything is allocated.

The step itself runs on the meta device, where tensors have shapes and no data, so the counts follow the code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phenaki.conditioning import NoTextConfig, Text, encoder_class
from phenaki.conditioning.words import WORD_BYTES
from phenaki.core.grid import latent_frames
from phenaki.core.precision import Autocast
from phenaki.generators import Components, build_generator
from phenaki.generators.critic import build_critic
from phenaki.perceptual import I3D, LPIPS, PerceptualNetworks
from phenaki.tokenizers import TokenizerSpec, build_tokenizer
from phenaki.tokenizers.discriminator import Discriminator
from phenaki.training import critic, generator, tokenizer
from phenaki.training.counting import Flops, Hardware, HardwareMode, PeakMemory
from phenaki.training.critic import CriticRecipe
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.inputs import Inputs
from phenaki.training.layers import blocks
from phenaki.training.masking import GeneratorBatch
from phenaki.training.optim import Optimizers
from phenaki.training.sharding import shardable
from phenaki.training.tokenizer import TokenizerBatch, TokenizerNetworks, TokenizerRecipe

_MASK_RATIO = 0.6366  # 2 / pi, the mean of the cosine schedule

Recipe = TokenizerRecipe | GeneratorRecipe | CriticRecipe


@dataclass(frozen=True)
class Cost:
    """The cost of a training step on the longest clips, in one process.

    parameters: of each network in training. tokens: ids in the step. flops: forward, backward and optimizers, a
    multiply-add being two. bytes: by what they hold, each kind at its own peak, so that their sum bounds `peak`, the
    most at one time. shardable: bytes of the weights that run.strategy fsdp shards; largest_shardable: of the largest
    linear map or convolution among them.
    """

    parameters: dict[str, int]
    tokens: int
    flops: int
    bytes: dict[str, int]
    peak: int
    shardable: int
    largest_shardable: int


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
    Raises PhenakiError for a recipe whose parts do not fit.
    """
    clips = recipe.data.batch if clips is None else clips
    part = math.ceil(clips / recipe.optimizer.accumulate)
    mode = HardwareMode(hardware, recipe.run.precision)
    with torch.device("meta"):
        step = _step(recipe, spec, model)
        optimizer_flops, states = _optimizers_cost(step)
        if recipe.run.checkpointing:
            _checkpoint(step, mode)
        parameters = [parameter for network in step.networks.values() for parameter in network.parameters()]
        with mode, Flops() as counter, PeakMemory(parameters) as peak:
            step.run(part, mode.autocast)
        flops = counter.total
        if step.penalty_every is not None:
            with mode, Flops() as counter:
                step.run(part, mode.autocast, penalize=False)
            flops = counter.total + (flops - counter.total) // step.penalty_every
    weights = 4 * _count(step.networks.values())
    shards = [4 * _count([module]) for module in shardable(blocks(step.networks.values()))]
    sizes = {
        "weights": weights,
        "frozen networks": 4 * _count(step.frozen),
        "gradients": weights,
        "optimizer": states,
        "averages": 4 * _count(step.networks[name] for name in step.averaged),
        "activations": peak.bytes,
    }
    return Cost(
        parameters=step.parameters_by_part(),
        tokens=step.tokens(clips),
        flops=optimizer_flops + flops * clips // part,
        bytes={kind: size for kind, size in sizes.items() if size},
        peak=sum(sizes.values()) - weights - peak.bytes + max(weights, peak.with_gradients),
        shardable=sum(shards),
        largest_shardable=max(shards, default=0),
    )


class Step(ABC):
    """The networks of a stage, on the current device, and its real training step with inputs of zeros.

    networks: those in training, by name. averaged: those with a moving average. frozen: networks of the losses.
    penalty_every: how often a step has the discriminator's penalty; None for never.
    """

    networks: dict[str, nn.Module]
    averaged: list[str]
    frozen: list[nn.Module]
    penalty_every: int | None

    @abstractmethod
    def optimizers(self) -> list[Optimizers]:
        """The optimizers of the stage."""

    @abstractmethod
    def tokens(self, clips: int) -> int:
        """Ids in so many clips."""

    @abstractmethod
    def run(self, clips: int, autocast: Autocast = nullcontext, penalize: bool = True) -> None:
        """Forward and backward passes for one part of a batch."""

    def parameters_by_part(self) -> dict[str, int]:
        """Of the first network by its children, all layers in one, and of the others."""
        counts: Counter[str] = Counter()
        first = next(iter(self.networks))
        for network, module in self.networks.items():
            for name, parameter in module.named_parameters():
                counts[name.partition(".")[0] if network == first else network] += parameter.numel()
        return dict(counts.most_common())


class TokenizerStep(Step):
    """With all losses of the recipe, at a step at which the discriminator has started."""

    def __init__(self, recipe: TokenizerRecipe):
        recipe.data.check_tokenizer(recipe.tokenizer.image_size, recipe.tokenizer.fps, recipe.tokenizer.patch)
        self._recipe, self._frames = recipe, max(recipe.data.lengths)
        perceptual = PerceptualNetworks(LPIPS() if recipe.loss.lpips else None, I3D() if recipe.loss.i3d else None)
        self.frozen = [network.eval().requires_grad_(False) for network in perceptual if network is not None]
        self.networks = {"tokenizer": build_tokenizer(recipe.tokenizer)}
        self.averaged, self.penalty_every = ["tokenizer"], None
        if recipe.loss.adversarial:
            self.networks["discriminator"] = Discriminator(recipe.discriminator)
            self.penalty_every = recipe.discriminator.penalty_every if recipe.discriminator.penalty else None
        self._networks = TokenizerNetworks(self.networks["tokenizer"], self.networks.get("discriminator"), perceptual)

    def optimizers(self) -> list[Optimizers]:
        return tokenizer.build_optimizers(self._networks, self._recipe)

    def tokens(self, clips: int) -> int:
        return clips * math.prod(self._networks.tokenizer.grid(self._frames, *self._recipe.tokenizer.image_size))

    def run(self, clips: int, autocast: Autocast = nullcontext, penalize: bool = True) -> None:
        recipe, adversarial = self._recipe, self._networks.discriminator is not None
        video = torch.zeros(clips, 3, self._frames, *recipe.tokenizer.image_size)
        parts = [TokenizerBatch(video, torch.arange(min(recipe.loss.frames or self._frames, self._frames)))]
        _, outputs = tokenizer.accumulate_gradients(self._networks, parts, recipe, autocast, adversarial)
        if adversarial:
            penalize = penalize and self.penalty_every is not None
            tokenizer.accumulate_discriminator_gradients(self._networks, parts, outputs, recipe, autocast, penalize)


class GeneratorStep(Step):
    """On the longest clips with the longest texts, and a critic if the recipe has one."""

    def __init__(self, recipe: GeneratorRecipe, spec: TokenizerSpec):
        recipe.data.check_tokenizer(spec.image_size, spec.fps, spec.patch)
        self._recipe, self._grid = recipe, _grid(recipe, spec)
        learns = encoder_class(recipe.text).learned
        inputs = Inputs(spec, "", None, None, recipe.text.width, "" if learns else "frozen", learns, None, True)
        self.networks = generator.build_networks(recipe, inputs)
        self.averaged, self.frozen, self.penalty_every = list(self.networks), [], None
        self._networks = Components(
            self.networks["generator"],
            text_encoder=self.networks.get("text_encoder"),
            critic=self.networks.get("critic"),
        )

    def optimizers(self) -> list[Optimizers]:
        return list(generator.build_optimizers(self.networks, self._recipe).values())

    def tokens(self, clips: int) -> int:
        return clips * math.prod(self._grid)

    def run(self, clips: int, autocast: Autocast = nullcontext, penalize: bool = True) -> None:
        batch = _masked_batch(clips, self._grid, self._text(clips), self._networks.critic is not None)
        generator.accumulate_gradients(self._networks, [batch], self._recipe, autocast)

    def _text(self, clips: int) -> Text | Tensor:
        config = self._recipe.text
        if self._networks.text_encoder is not None:
            return torch.zeros(clips, config.max_words, WORD_BYTES, dtype=torch.long)
        return _embeddings(clips, 0 if isinstance(config, NoTextConfig) else config.length, config.width)


class CriticStep(Step):
    """Beside a generator that stays frozen and comes from another recipe, as does its text."""

    def __init__(self, recipe: CriticRecipe, spec: TokenizerSpec, model: GeneratorRecipe):
        recipe.data.check_tokenizer(spec.image_size, spec.fps, spec.patch)
        self._recipe, self._grid, self._text = recipe, _grid(recipe, spec), model.text
        self._generator = build_generator(model.generator, spec, model.text.width).requires_grad_(False)
        self.networks = {"critic": build_critic(recipe.critic, self._generator)}
        self.averaged, self.frozen, self.penalty_every = ["critic"], [self._generator], None

    def optimizers(self) -> list[Optimizers]:
        recipe = self._recipe
        return [critic.critic_optimizers(self.networks["critic"], recipe.critic, recipe.optimizer, recipe.run.steps)]

    def tokens(self, clips: int) -> int:
        return clips * math.prod(self._grid)

    def run(self, clips: int, autocast: Autocast = nullcontext, penalize: bool = True) -> None:
        length = getattr(self._text, "max_words", getattr(self._text, "length", 0))
        batch = _masked_batch(clips, self._grid, _embeddings(clips, length, self._text.width), True)
        critic.accumulate_gradients(self.networks["critic"], self._generator, [batch], self._recipe, autocast)


def _grid(recipe: GeneratorRecipe | CriticRecipe, spec: TokenizerSpec) -> tuple[int, int, int]:
    (p, ph, pw), (height, width) = spec.patch, spec.image_size
    return latent_frames(max(recipe.data.lengths), p), height // ph, width // pw


def _embeddings(clips: int, length: int, width: int) -> Text:
    return Text(torch.zeros(clips, length, width), torch.zeros(clips, length, dtype=torch.bool))


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


def _step(recipe: Recipe, spec: TokenizerSpec | None, model: GeneratorRecipe | None) -> Step:
    if isinstance(recipe, TokenizerRecipe):
        return TokenizerStep(recipe)
    return CriticStep(recipe, spec, model) if isinstance(recipe, CriticRecipe) else GeneratorStep(recipe, spec)


def _checkpoint(step: Step, mode: HardwareMode) -> None:
    for layer in blocks(step.networks.values()):
        options = {"use_reentrant": False, "preserve_rng_state": False}
        context = lambda: (nullcontext(), mode.recompute())  # noqa: E731
        layer.forward = partial(checkpoint, layer.forward, context_fn=context, **options)


def _count(networks: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def _optimizers_cost(step: Step) -> tuple[int, int]:
    """Operations of the optimizers' step, and bytes of their state."""
    states: list[Tensor] = []
    with Flops() as counter:
        for optimizers in step.optimizers():
            for parameter in optimizers.parameters:
                parameter.grad = torch.zeros_like(parameter)
            for optimizer in optimizers.optimizers:
                for group in optimizer.param_groups:
                    group["fused"] = False  # not available on the meta device; its state is the same
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                states += [value for state in optimizer.state.values() for value in state.values()]
    return counter.total, sum(value.nbytes for value in states if isinstance(value, Tensor))
