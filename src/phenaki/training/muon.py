"""Muon for GPUs: all matrices of a shape at a time, which saves nine in ten kernels of small matrices.

Shapes: n matrices of a shape (r, c), n' those of this process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class StackedMuon(torch.optim.Optimizer):
    """What `torch.optim.Muon` computes (with Nesterov momentum and `adjust_lr_fn="match_rms_adamw"`), and its state.

    Where there are several processes, each orthogonalises a part of the matrices and sends it to the others: gradients
    and weights must be the same in all. `found_inf`: 1 where the step is to leave weights and state as they are, which
    the device finds out by itself.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float):
        settings = torch.optim.Muon([torch.nn.Parameter(torch.zeros(1, 1))]).defaults  # torch's
        super().__init__(list(parameters), settings | {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[parameter.shape].append(parameter)
            for stack in stacks.values():
                self._step(stack, group)

    def _step(self, stack: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in stack:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in stack]
        weights, gradients, before = (torch.stack(each) for each in (stack, [p.grad for p in stack], buffers))
        momentum = before.lerp(gradients, 1 - group["momentum"])
        update = _orthogonalized(gradients.lerp_(momentum, group["momentum"]), group)
        lr = 0.2 * group["lr"] * max(stack[0].shape) ** 0.5
        after = (weights * (1 - group["lr"] * group["weight_decay"])).sub_(update, alpha=lr)
        if self.found_inf is not None:
            momentum = torch.where(self.found_inf > 0, before, momentum)
            after = torch.where(self.found_inf > 0, weights, after)
        torch._foreach_copy_(buffers, momentum.unbind())
        torch._foreach_copy_(stack, after.unbind())


def _orthogonalized(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """(n, r, c) -> the same with singular values near 1, in bfloat16; each process computes n' of them."""
    count = dist.get_world_size() if dist.is_initialized() else 1
    if count == 1:
        return _newton_schulz(matrices.bfloat16(), group)
    own = -(-len(matrices) // count)
    first = own * dist.get_rank()
    mine = matrices.new_zeros(own, *matrices.shape[1:], dtype=torch.bfloat16)
    mine[: max(0, len(matrices) - first)] = matrices[first : first + own].bfloat16()
    made = mine.new_empty(count * own, *mine.shape[1:])
    dist.all_gather_into_tensor(made, _newton_schulz(mine, group).contiguous())
    return made[: len(matrices)]


def _newton_schulz(x: Tensor, group: dict[str, Any]) -> Tensor:
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(group["eps"])
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
