"""Optimizers, learning-rate schedule and moving averages of weights, for every stage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from phenaki.core.config import bounded, configclass
from phenaki.nn.block import Block
from phenaki.training.sharding import local, partition_sharded


@configclass
class OptimizerConfig:
    """`adamw` is the paper's (appendix B.1). `muon`: Muon for the matrices inside the transformer layers and AdamW for
    the rest, which learned more in equal time at small sizes (docs/log.md)."""

    kind: Literal["muon", "adamw"] = "adamw"
    lr: float = bounded(1e-4, above=0)
    betas: tuple[float, float] = bounded((0.9, 0.99), at_least=0, below=1)
    weight_decay: float = bounded(1e-4, at_least=0)
    warmup_steps: int = bounded(1000, at_least=0)
    final_lr: float = bounded(0.0, at_least=0)
    """Final learning rate as a fraction of `lr`."""
    cooldown_fraction: float = bounded(1.0, above=0, at_most=1)
    """Fraction of the steps, at the end, over which the cosine falls; before it the rate is constant."""
    clip: float = bounded(10.0, above=0)
    accumulate: int = bounded(1, at_least=1)
    """Gradient accumulation: micro-batches in which a process works through its batch, to need less memory."""
    ema_decay: float = bounded(0.999, at_least=0, below=1)


class Optimizers:
    """The optimizers of networks in training, stepped together under one learning-rate schedule."""

    def __init__(self, modules: Iterable[nn.Module], config: OptimizerConfig, steps: int):
        self.config = config
        self.steps = steps
        hidden, decayed, other = [], [], []
        for module in modules:
            inner = {id(p) for block in module.modules() if isinstance(block, Block) for p in block.parameters()}
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    continue
                if config.kind == "muon" and parameter.ndim == 2 and id(parameter) in inner:
                    hidden.append(parameter)
                elif parameter.ndim >= 2:
                    decayed.append(parameter)
                else:
                    other.append(parameter)
        self.parameters: list[Tensor] = hidden + decayed + other
        self.optimizers: list[torch.optim.Optimizer] = []
        for some, rest in zip(partition_sharded(decayed), partition_sharded(other), strict=True):
            if some or rest or not self.optimizers:
                groups = [{"params": some, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
                self.optimizers.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True))
        if hidden:
            self.optimizers.append(
                torch.optim.Muon(hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def lr(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, constant, then half a cosine down to `final_lr` of it."""
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        cooldown = max(1, round(self.steps * config.cooldown_fraction))
        progress = min(1.0, max(0.0, (step - (self.steps - cooldown)) / cooldown))
        cosine = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        return config.lr * warm * cosine

    def update(self, step: int) -> float:
        """Clip the gradients, take the step, clear them. Returns the gradient norm before clipping; if it is not
        finite, no step is taken."""
        norm = float(clip_gradients(self.parameters, self.config.clip))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr(step)
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict) -> None:
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            for values in optimizer.state.values():  # on the CPU they are still those of the file
                on_cpu = {key: value for key, value in values.items() if isinstance(value, Tensor) and value.is_cpu}
                values.update({key: value.clone() for key, value in on_cpu.items()})


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Clip the joint norm of the gradients to `limit`; returns the norm before. It is that of the full tensors if some
    are sharded: all processes call."""
    full, sharded = partition_sharded(parameter for parameter in parameters if parameter.grad is not None)
    if not sharded:
        return nn.utils.clip_grad_norm_(full, limit)
    norms = [nn.utils.get_total_norm([parameter.grad for parameter in some]) for some in (full, sharded)]
    norm = torch.linalg.vector_norm(torch.stack([norms[0], norms[1].full_tensor()]))
    for some in (full, sharded):
        nn.utils.clip_grads_with_norm_(some, limit, norm)
    return norm


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a model's weights, from torch; `.module` is the model to evaluate and ship.

    The decay after n steps is (1 + n) / (10 + n) while that is below `decay`, so that early averages forget the initial
    weights. Buffers are copied: averaging would truncate integers, such as a quantizer's levels.
    """

    def update(averages: list[Tensor], current: list[Tensor], on_device: Tensor | int) -> None:
        steps = int(average.n_averaged)  # kept on the CPU, so nothing waits for the GPU
        ema = get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))
        ema([local(tensor) for tensor in averages], [local(tensor) for tensor in current], on_device)

    average = AveragedModel(model, multi_avg_fn=update)
    return average
