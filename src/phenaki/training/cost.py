"""What a training step costs, known before anything is allocated.

The step is run on tensors that have shapes and no memory. So parameters, floating-point operations and memory are
counted in the networks as they are, and no formula falls behind them.
"""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from phenaki.conditioning import NoTextConfig, Text, encoder_class
from phenaki.conditioning.words import WORD_BYTES
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.core.precision import Precision, prefers_bfloat16
from phenaki.generators import MaskedTransformer
from phenaki.generators.losses import masked_cross_entropy
from phenaki.perceptual import I3D, LPIPS, Judges
from phenaki.tokenizers import TokenizerFacts, build_tokenizer
from phenaki.tokenizers.discriminator import (
    Discriminator,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
)
from phenaki.tokenizers.losses import code_losses, perceptual_losses, pixel_losses
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.layers import layers
from phenaki.training.optim import Optimizers
from phenaki.training.sharding import shardable
from phenaki.training.tokenizer import TokenizerRecipe, discriminator_optimizer

_MASKED_SHARE = 0.6366  # 2 / pi, the mean of the cosine schedule

Recipe = TokenizerRecipe | GeneratorRecipe
Hardware = Literal["cuda", "cpu"]
Autocast = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Cost:
    """Of a training step on the longest clips, in one process.

    parameters: of each part that is trained. tokens: ids of the step. flops: forward, backward and the optimizers', a
    product and its sum being two. bytes: by what they hold, each kind at its own peak, so that their sum is a bound of
    `peak`, the most that there is at once. shardable: bytes of the weights that run.strategy fsdp shards;
    largest_shardable: of the largest linear map or convolution among them.
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
    facts: TokenizerFacts | None = None,
    clips: int | None = None,
    hardware: Hardware = "cuda",
) -> Cost:
    """Of a step on so many clips (None: the recipe's batch); nothing is allocated.

    facts: of the tokenizer whose ids a generator writes; its networks are not counted, as token shards bring its ids
    and the embeddings of a text encoder that does not learn. hardware: "cpu" is this machine's. Weights, gradients,
    averages and the optimizers' state are float32. Raises PhenakiError for a recipe whose parts do not fit.
    """
    clips = recipe.data.batch if clips is None else clips
    part = math.ceil(clips / recipe.optimizer.accumulate)
    like = Like(hardware, recipe.run.precision)
    with torch.device("meta"):
        step = _step(recipe, facts)
        optimizer_flops, states = _optimizers_cost(step)
        if recipe.run.checkpointing:
            _checkpoint(step, like)
        parameters = [parameter for network in step.networks.values() for parameter in network.parameters()]
        with like, Flops() as counter, PeakMemory(parameters) as peak:
            step.run(part, like.autocast)
        if step.penalty_every is not None:  # it was in that step, and is not in all
            with Flops() as penalty:
                step.penalty(part)
            counter.total -= penalty.total - penalty.total // step.penalty_every
    weights = 4 * _count(step.networks.values())
    shards = [4 * _count([module]) for module in shardable(layers(step.networks.values()))]
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
        flops=optimizer_flops + counter.total * clips // part,
        bytes={kind: size for kind, size in sizes.items() if size},
        peak=sum(sizes.values()) - weights - peak.bytes + max(weights, peak.with_gradients),
        shardable=sum(shards),
        largest_shardable=max(shards, default=0),
    )


# ---- the steps of both stages, as `train_generator` and `TokenizerTraining` make them


class Step(ABC):
    """The networks of a stage, on the device on which it is made, and a training step of them.

    networks: those that are trained, by name. averaged: those with a moving average. frozen: judges of the losses.
    penalty_every: in how many steps one has the discriminator's penalty; None for never.
    """

    networks: dict[str, nn.Module]
    averaged: list[str]
    frozen: list[nn.Module]
    penalty_every: int | None

    @abstractmethod
    def optimizers(self) -> list[Optimizers]:
        """Those of the training."""

    @abstractmethod
    def tokens(self, clips: int) -> int:
        """Ids of so many clips."""

    @abstractmethod
    def run(self, clips: int, autocast: Autocast = nullcontext) -> None:
        """Forward pass, inside `autocast()`, losses and backward pass, with all that any step has."""

    def penalty(self, clips: int) -> None:
        """Of that, the discriminator's penalty."""
        raise NotImplementedError

    def parameters_by_part(self) -> dict[str, int]:
        """Of the first network by its children, layers all in one, and of the others."""
        counts: Counter[str] = Counter()
        first = next(iter(self.networks))
        for network, module in self.networks.items():
            for name, parameter in module.named_parameters():
                counts[name.partition(".")[0] if network == first else network] += parameter.numel()
        return dict(counts.most_common())


class GeneratorStep(Step):
    """On the longest clips with the longest texts."""

    def __init__(self, recipe: GeneratorRecipe, facts: TokenizerFacts):
        if recipe.critic.kind != "none":
            raise PhenakiError(f"critic.kind '{recipe.critic.kind}': no plan counts critics yet; take critic.kind=none")
        recipe.data.check_tokenizer(facts.image_size, facts.fps, facts.patch)
        self._recipe, (p, ph, pw), (height, width) = recipe, facts.patch, facts.image_size
        self._grid = latent_frames(max(recipe.data.lengths), p), height // ph, width // pw
        self.networks = {"generator": MaskedTransformer(recipe.generator.config(facts, recipe.text.width))}
        if encoder_class(recipe.text).learned:
            self.networks["text encoder"] = encoder_class(recipe.text)(recipe.text)
        self.averaged, self.frozen, self.penalty_every = list(self.networks), [], None

    def optimizers(self) -> list[Optimizers]:
        return [Optimizers(self.networks.values(), self._recipe.optimizer, self._recipe.run.steps)]

    def tokens(self, clips: int) -> int:
        return clips * math.prod(self._grid)

    def run(self, clips: int, autocast: Autocast = nullcontext) -> None:
        generator = self.networks["generator"]
        ids = torch.zeros(clips, *self._grid, dtype=torch.long)
        masked = round(_MASKED_SHARE * ids.numel())
        with autocast():
            text = generator.drop(self._text(clips), torch.zeros(clips, dtype=torch.bool))
            features = generator.features(ids, generator.context(text), text.mask)
            logits = generator.head(features.flatten(0, -2)[:masked].clone())  # training gathers those that are masked
        smoothing = self._recipe.loss.label_smoothing
        masked_cross_entropy(logits, ids.flatten()[:masked], torch.ones(masked), smoothing).backward()

    def _text(self, clips: int) -> Text:
        config = self._recipe.text
        if "text encoder" in self.networks:
            return self.networks["text encoder"](torch.zeros(clips, config.max_words, WORD_BYTES, dtype=torch.long))
        length = 0 if isinstance(config, NoTextConfig) else config.length
        return Text(torch.zeros(clips, length, config.width), torch.zeros(clips, length, dtype=torch.bool))


class TokenizerStep(Step):
    """With all losses of the recipe, at a step in which a discriminator has started."""

    def __init__(self, recipe: TokenizerRecipe):
        recipe.data.check_tokenizer(recipe.tokenizer.image_size, recipe.tokenizer.fps, recipe.tokenizer.patch)
        self._recipe, self._frames = recipe, max(recipe.data.lengths)
        self.networks = {"tokenizer": build_tokenizer(recipe.tokenizer)}
        self.averaged, self.penalty_every = ["tokenizer"], None
        if recipe.loss.adversarial:
            self.networks["discriminator"] = Discriminator(recipe.discriminator)
            self.penalty_every = recipe.discriminator.penalty_every if recipe.discriminator.penalty else None
        self._judges = Judges(LPIPS() if recipe.loss.lpips else None, I3D() if recipe.loss.i3d else None)
        self.frozen = [judge.eval().requires_grad_(False) for judge in self._judges if judge is not None]

    def optimizers(self) -> list[Optimizers]:
        configs = {"tokenizer": self._recipe.optimizer, "discriminator": discriminator_optimizer(self._recipe)}
        return [Optimizers([network], configs[name], self._recipe.run.steps) for name, network in self.networks.items()]

    def tokens(self, clips: int) -> int:
        return clips * math.prod(self.networks["tokenizer"].grid(self._frames, *self._recipe.tokenizer.image_size))

    def run(self, clips: int, autocast: Autocast = nullcontext) -> None:
        recipe, tokenizer = self._recipe, self.networks["tokenizer"]
        discriminator = self.networks.get("discriminator")
        video, seen, shown = self._video(clips), self._seen(), self._shown()
        with autocast():
            out = tokenizer(video)
        losses = pixel_losses(out.video, video, recipe.loss)
        losses |= perceptual_losses(out.video, video, seen, self._judges, recipe.loss)
        losses |= code_losses(out, video, tokenizer, recipe.loss)
        loss = sum(losses.values())
        if discriminator is not None:
            loss = loss + self._adversarial(out.video[:, :, shown], loss, autocast)
        loss.backward(inputs=list(tokenizer.parameters()))
        if discriminator is not None:
            self._discriminate(out.video.detach()[:, :, shown], video[:, :, shown], autocast)

    def _adversarial(self, made: Tensor, others: Tensor, autocast: Autocast) -> Tensor:
        config = self._recipe.discriminator
        with autocast():
            scores = self.networks["discriminator"](made)
        loss = adversarial_loss(scores, config.loss)
        return loss * adaptive_weight(others, loss, self.networks["tokenizer"].last_layer) if config.adaptive else loss

    def _discriminate(self, made: Tensor, video: Tensor, autocast: Autocast) -> None:
        discriminator = self.networks["discriminator"]
        with autocast():
            made_scores, scores = discriminator(made), discriminator(video)
        loss = discriminator_loss(scores, made_scores, self._recipe.discriminator.loss)
        if self.penalty_every is not None:
            loss = loss + gradient_penalty(discriminator, video)
        loss.backward()

    def penalty(self, clips: int) -> None:
        gradient_penalty(self.networks["discriminator"], self._video(clips)[:, :, self._shown()]).backward()

    def _video(self, clips: int) -> Tensor:
        return torch.zeros(clips, 3, self._frames, *self._recipe.tokenizer.image_size)

    def _seen(self) -> Tensor:
        """Frames that losses of single frames see."""
        return torch.arange(min(self._recipe.loss.frames or self._frames, self._frames))

    def _shown(self) -> Tensor | slice:
        """Frames that the discriminator sees."""
        return slice(None) if self._recipe.discriminator.sees == "clips" else self._seen()


def _step(recipe: Recipe, facts: TokenizerFacts | None) -> Step:
    return TokenizerStep(recipe) if isinstance(recipe, TokenizerRecipe) else GeneratorStep(recipe, facts)


def _checkpoint(step: Step, like: Like) -> None:
    for layer in layers(step.networks.values()):
        options = {"use_reentrant": False, "preserve_rng_state": False}
        layer.forward = partial(checkpoint, layer.forward, context_fn=lambda: (nullcontext(), like.again()), **options)


# ---- counting


def _count(networks: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def _attention_flops(q: Tensor, k: Tensor, v: Tensor) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Flops(TorchDispatchMode):
    """Counts the operations inside the block: `.total`. The formulas are torch's, and the fused attention is counted as
    its plain products are; `FlopCounterMode` cannot see into it, and its hooks bear no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function._overloadpacket is _ATTENTION:
            self.total += _attention_flops(*args[:3])
        elif function._overloadpacket is _ATTENTION_BACKWARD:
            self.total += 2 * _attention_flops(*args[1:4])
        elif formula := flop_registry.get(function._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=made)
        return made


def _optimizers_cost(step: Step) -> tuple[int, int]:
    """Operations of the optimizers' step, and bytes of the state after it."""
    states: list[Tensor] = []
    with Flops() as counter:
        for optimizers in step.optimizers():
            for parameter in optimizers.parameters:
                parameter.grad = torch.zeros_like(parameter)
            for optimizer in optimizers.optimizers:
                for group in optimizer.param_groups:
                    group["fused"] = False  # that does not run on the meta device, and keeps the same
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                states += [value for state in optimizer.state.values() for value in state.values()]
    return counter.total, sum(value.nbytes for value in states if isinstance(value, Tensor))


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside the block hold at once: `.bytes`, gradients of the parameters left out,
    and `.with_gradients`. It counts tensors without memory like any others."""

    def __init__(self, parameters: Iterable[Tensor]):
        super().__init__()
        self.bytes = self.with_gradients = 0
        self._now = self._gradients = 0
        self._alive: set[int] = set()
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._leave_out)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        self.bytes = max(self.bytes, self._now)
        self.with_gradients = max(self.with_gradients, self._now + self._gradients)
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive.add(key)
            self._now += storage.nbytes()
            weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        if key in self._alive:
            self._alive.remove(key)
            self._now -= size

    def _leave_out(self, parameter: Tensor) -> None:
        storage = parameter.grad.untyped_storage()
        if storage._cdata in self._alive:
            self._gone(storage._cdata, storage.nbytes())
            self._gradients += storage.nbytes()


_IN_BFLOAT16 = {F.linear, F.conv2d, F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}


class Like(TorchFunctionMode):
    """Makes the meta device do what this hardware does in the precision of training.

    Attention as `nn/attention.py: attend` chooses it, and inside `autocast()` products in bfloat16, each weight being
    cast once, and on GPUs norms in float32.
    """

    def __init__(self, hardware: Hardware, precision: Precision):
        super().__init__()
        self._gpu = hardware == "cuda"
        by_itself = self._gpu or prefers_bfloat16(torch.device("cpu"))
        self._bfloat16 = precision == "bfloat16" or (precision == "auto" and by_itself)
        self._casts: dict[int, Tensor] = {}

    @contextmanager
    def autocast(self) -> Iterator[None]:
        torch.set_autocast_enabled("cuda", self._bfloat16)  # a flag that parts which stay in float32 take away
        yield
        torch.set_autocast_enabled("cuda", False)
        self._casts.clear()

    @contextmanager
    def again(self) -> Iterator[None]:
        """As in the forward pass, for layers that run again in the backward pass."""
        with torch.device("meta"), self, self.autocast():
            yield

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.is_autocast_enabled("cuda"):
            if function in _IN_BFLOAT16:
                args = tuple(self._cast(value, torch.bfloat16) for value in args)
            elif function is F.layer_norm and self._gpu:
                args = tuple(self._cast(value, torch.float32) for value in args)
        if function is F.scaled_dot_product_attention:
            return self._attention(*args, mask=(kwargs or {})["attn_mask"])
        return function(*args, **(kwargs or {}))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self._gpu or q.dtype != torch.bfloat16:  # fused: it keeps no scores
            return _ATTENTION(q, k, v)[0]
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1) @ v

    def _cast(self, value: Any, kind: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == kind:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(kind)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(kind)
        return self._casts[id(value)]
