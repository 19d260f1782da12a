"""Optimizers, learning-rate schedule and moving averages of weights, for every stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from phenaki.core.config import bounded, configclass
from phenaki.nn.block import Block
from phenaki.training.muon import StackedMuon
from phenaki.training.sharding import laid_out_as, local, partition_sharded
from phenaki.training.tied_rows import TiedRowsAdamW


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
    """The optimizers of networks in training, stepped together under one learning-rate schedule.

    levels: of weights whose rows share levels, as `TiedRowsAdamW` takes them."""

    def __init__(
        self,
        modules: Iterable[nn.Module],
        config: OptimizerConfig,
        steps: int,
        levels: Mapping[Tensor, Tensor] | None = None,
    ):
        self.config = config
        self.steps = steps
        levels = levels or {}
        shared = {id(weight) for weight in levels}
        hidden, decayed, other = [], [], []
        for module in modules:
            inner = {id(p) for block in module.modules() if isinstance(block, Block) for p in block.parameters()}
            for parameter in module.parameters():
                if not parameter.requires_grad or id(parameter) in shared:
                    continue
                if config.kind == "muon" and parameter.ndim == 2 and id(parameter) in inner:
                    hidden.append(parameter)
                elif parameter.ndim >= 2:
                    decayed.append(parameter)
                else:
                    other.append(parameter)
        self.parameters: list[Tensor] = hidden + decayed + other + list(levels)
        self.optimizers: list[torch.optim.Optimizer] = []
        for some, rest in zip(partition_sharded(decayed), partition_sharded(other), strict=True):
            if some or rest or not self.optimizers:
                groups = [{"params": some, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
                self.optimizers.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True))
        if levels:
            self.optimizers.append(TiedRowsAdamW(levels, config.lr, config.betas, config.weight_decay))
        if hidden:
            settings = {"lr": config.lr, "weight_decay": config.weight_decay}
            self.optimizers.append(
                torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", **settings)
                if hidden[0].device.type in ("cpu", "meta")
                else StackedMuon(hidden, **settings)
            )

        self._owners = {
            id(parameter): optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def lr(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, constant, then half a cosine down to `final_lr` of it."""
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        cooldown = max(1, round(self.steps * config.cooldown_fraction))
        progress = min(1.0, max(0.0, (step - (self.steps - cooldown)) / cooldown))
        cosine = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        return config.lr * warm * cosine

    def update(self, step: int) -> Tensor:
        """Clip the gradients, take the step, clear them. Returns the gradient norm before clipping, a scalar; if it is
        not finite, no step is taken: a GPU finds that out by itself."""
        norm = clip_gradients(self.parameters, self.config.clip)
        is_bad = ~norm.isfinite()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr(step)
            if not is_bad.is_cpu:
                optimizer.found_inf = is_bad.float()  # of torch's fused AdamW, as a GradScaler sets it, and of our Muon
                optimizer.step()
            elif not is_bad:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict:
        """The state of each parameter, in the order of `parameters`: which optimizer has it depends on the sharding."""
        states = [self._owners[id(parameter)].state.get(parameter, {}) for parameter in self.parameters]
        return {"parameters": [dict(values) for values in states]}

    def load_state_dict(self, state: dict) -> None:
        for optimizer, saved in zip(self.optimizers, self._by_optimizer(state), strict=True):
            optimizer.load_state_dict(saved)
            for values in optimizer.state.values():  # on the CPU they are still those of the file
                on_cpu = {key: value for key, value in values.items() if isinstance(value, Tensor) and value.is_cpu}
                values.update({key: value.clone() for key, value in on_cpu.items()})

    def _by_optimizer(self, state: dict) -> list[dict]:
        """As torch's optimizers take it."""
        if "optimizers" in state:  # as an older version wrote it
            return state["optimizers"]
        states = dict(zip(map(id, self.parameters), state["parameters"], strict=True))
        own = []
        for optimizer in self.optimizers:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            of_each = {
                number: {
                    key: laid_out_as(parameter, value) if value.shape == parameter.shape else value
                    for key, value in states[id(parameter)].items()
                }
                for number, parameter in enumerate(parameters)
                if states[id(parameter)]
            }
            own.append({"state": of_each, "param_groups": optimizer.state_dict()["param_groups"]})
        return own


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


class MovingAverage(AveragedModel):
    """The exponential moving average of a model's weights, as torch keeps it; `.module` is the model to evaluate and
    ship.

    The decay after n steps is (1 + n) / (10 + n) while that is below `decay`, so that early averages forget the initial
    weights. Buffers are copied: averaging would truncate integers, such as a quantizer's levels.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """torch's, without the copy to the device for which it would wait: `n_averaged` stays on the CPU."""
        steps = int(self.n_averaged)
        averages, current = ([local(tensor) for tensor in each.parameters()] for each in (self.module, model))
        decay = min(self.decay, (1 + steps) / (10 + steps)) if steps else 0.0
        torch._foreach_lerp_(averages, current, 1 - decay)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1


def averaged(model: nn.Module, decay: float) -> MovingAverage:
    return MovingAverage(model, decay)
