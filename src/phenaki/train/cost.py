"""What a training of the second stage costs, known before anything is allocated.

The step is run on the meta device, where tensors have shapes and no memory: so parameters, floating-point operations
and the tensors that the backward pass needs are counted in the networks as they are, and no formula falls behind them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from phenaki.data.config import DataConfig
from phenaki.generator import MaskedTransformer
from phenaki.generator.losses import masked_cross_entropy
from phenaki.grid import time_steps
from phenaki.text import NoTextConfig, Text, TextConfig, TextEncoder, encoder_class
from phenaki.text.words import WORD_BYTES
from phenaki.tokenizer import TokenizerFacts
from phenaki.train.generator import GeneratorRecipe
from phenaki.train.optim import Optimizers

_MASKED_SHARE = 0.6366  # 2 / pi, the mean of the cosine schedule


@dataclass(frozen=True)
class Cost:
    """parameters: of each part that is trained. tokens: ids of a batch. flops: of a training step, forward and
    backward, a product and its sum being two. bytes: by what they hold."""

    parameters: dict[str, int]
    tokens: int
    flops: int
    bytes: dict[str, int]

    def lines(self) -> list[str]:
        """A report."""
        total, memory = sum(self.parameters.values()), sum(self.bytes.values())
        return [
            f"parameters         {total:>17,}",
            *(f"  {part:<16} {count:>17,}" for part, count in self.parameters.items()),
            f"ids in a batch     {self.tokens:>17,}",
            f"operations, a step {_short(self.flops):>17}FLOP",
            f"memory             {_short(memory):>17}B",
            *(f"  {part:<16} {_short(size):>17}B" for part, size in self.bytes.items()),
        ]


def generator_cost(recipe: GeneratorRecipe, facts: TokenizerFacts) -> Cost:
    """Of a training step on the longest clips with the longest texts, in one process; nothing is allocated.

    `facts`: of the tokenizer whose ids are written. Frozen networks are left out: token shards bring what they make.
    Weights, gradients, averages and the optimizer's state are float32; activations, of which all are kept that the
    backward pass needs (fused attention keeps no scores), bfloat16 unless run.precision is float32.
    """
    recipe.data.check_tokenizer(facts.image_size, facts.fps)
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "generator": MaskedTransformer(recipe.generator.config(facts, recipe.text.width))
        }
        if encoder_class(recipe.text).learned:
            networks["text encoder"] = encoder_class(recipe.text)(recipe.text)
        step = _step(recipe, facts, networks["generator"], networks.get("text encoder"))
    with FlopCounterMode(display=False) as counter:
        step().backward()
    parameters = [parameter for network in networks.values() for parameter in network.parameters()]
    weights = 4 * sum(parameter.numel() for parameter in parameters)
    itemsize = 4 if recipe.run.precision == "float32" else 2
    return Cost(
        parameters=_parameters(networks),
        tokens=recipe.data.batch * _ids(recipe.data, facts),
        flops=counter.get_total_flops(),
        bytes={
            "weights": weights,
            "gradients": weights,
            "optimizer": _optimizer_bytes(recipe, networks),
            "averages": weights,
            "activations": _activation_bytes(step, parameters, itemsize),
        },
    )


def _short(value: float) -> str:
    """Three digits and the SI prefix."""
    power = min(int(math.log10(max(value, 1))) // 3, 6)
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"


def _ids(data: DataConfig, facts: TokenizerFacts) -> int:
    """Of the longest clips."""
    p, ph, pw = facts.patch
    return time_steps(max(data.lengths), p) * (facts.image_size[0] // ph) * (facts.image_size[1] // pw)


def _step(
    recipe: GeneratorRecipe, facts: TokenizerFacts, generator: MaskedTransformer, reader: TextEncoder | None
) -> Callable[[], Tensor]:
    """Forward pass and loss of `train_generator`, on tensors of its shapes."""
    B, (p, ph, pw), (height, width) = recipe.data.batch, facts.patch, facts.image_size
    ids = torch.zeros(B, time_steps(max(recipe.data.lengths), p), height // ph, width // pw, dtype=torch.long)
    masked = round(_MASKED_SHARE * ids.numel())
    read = _text(recipe.text, reader, B)

    def step() -> Tensor:
        text = generator.drop(read(), torch.zeros(B, dtype=torch.bool, device="meta"))
        features = generator.features(ids, generator.context(text), text.mask)
        logits = generator.head(features.flatten(0, -2)[:masked])
        return masked_cross_entropy(logits, ids.flatten()[:masked], torch.ones_like(logits[:, 0]), 0.0)

    return step


def _text(config: TextConfig, reader: TextEncoder | None, batch: int) -> Callable[[], Text]:
    """The longest texts, each time they are asked for."""
    if reader is not None:
        tokens = torch.zeros(batch, config.max_words, WORD_BYTES, dtype=torch.long)
        return lambda: reader(tokens)
    length = 0 if isinstance(config, NoTextConfig) else config.length
    text = Text(torch.zeros(batch, length, config.width), torch.zeros(batch, length, dtype=torch.bool))
    return lambda: text


def _parameters(networks: dict[str, nn.Module]) -> dict[str, int]:
    """Of the generator by its children, layers all in one, and of the other networks."""
    counts: Counter[str] = Counter()
    for network, module in networks.items():
        for name, parameter in module.named_parameters():
            counts[name.partition(".")[0] if network == "generator" else network] += parameter.numel()
    return dict(counts.most_common())


def _optimizer_bytes(recipe: GeneratorRecipe, networks: dict[str, nn.Module]) -> int:
    """Of the state after a step."""
    optimizers = Optimizers(networks.values(), recipe.optimizer, recipe.run.steps)
    for parameter in optimizers.parameters:
        parameter.grad = torch.zeros_like(parameter)
    states = []
    for optimizer in optimizers.optimizers:
        for group in optimizer.param_groups:
            group["fused"] = False  # that does not run on the meta device, and keeps the same
        optimizer.step()
        states += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in states)


def _activation_bytes(step: Callable[[], Tensor], parameters: list[Tensor], itemsize: int) -> int:
    """Of what a step keeps for its backward pass, each storage once; `itemsize`: bytes of a floating-point number."""
    known = {parameter.untyped_storage()._cdata for parameter in parameters}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            size = storage.nbytes()
            sizes[storage._cdata] = size // tensor.itemsize * itemsize if tensor.is_floating_point() else size
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        loss = step()  # its graph holds on to the storages while they are counted
    del loss
    return sum(sizes.values())


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps no scores, as GPUs and CPUs have it; on the meta device torch takes the plain operations."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return function(*args, **(kwargs or {}))
