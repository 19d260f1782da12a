"""AdamW for weights with a row for each code, where codes share levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class TiedRowsAdamW(torch.optim.Optimizer):
    """AdamW of U and T, where a weight (R, D) is U + S T, and S (R, L) says which of the L levels each row has. Only
    their sum is kept, so that models are as without it.

    A code of FSQ is made of a few levels, and a step on one of its rows moves those of all codes that share them: rows
    of rare codes learn from frequent ones. `found_inf`: 1 where the step is to leave weights and state as they are,
    which the device finds out by itself.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, levels: Mapping[Tensor, Tensor], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
    ):
        settings = {"lr": lr, "betas": betas, "eps": 1e-8, "weight_decay": weight_decay}
        super().__init__(list(levels), settings)
        self._levels = {id(weight): each.to(weight) for weight, each in levels.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        kept = 1.0 if self.found_inf is None else self.found_inf == 0
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                levels, state = self._levels[id(weight)], self.state[weight]
                if not state:
                    state["step"] = torch.zeros((), device=weight.device)
                state["step"] = state["step"].to(weight.device) + kept  # torch loads it to the CPU
                update = self._update("rows", weight.grad, state, group)
                update += levels @ self._update("levels", levels.T @ weight.grad, state, group)
                update.add_(weight, alpha=group["weight_decay"]).mul_(group["lr"])
                weight -= update if self.found_inf is None else torch.where(kept, update, 0.0)

    def _update(self, name: str, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """Adam's direction, with the moments `name` of the state brought up to date."""
        ratios = []
        for key, new, beta in zip(("mean", "square"), (gradient, gradient.square()), group["betas"], strict=True):
            before = state.get(f"{name}_{key}")
            moment = new * (1 - beta) if before is None else before.lerp(new, 1 - beta)
            if self.found_inf is not None:
                moment = torch.where(self.found_inf > 0, 0.0 if before is None else before, moment)
            state[f"{name}_{key}"] = moment
            ratios.append(moment / (1 - beta ** state["step"]))
        mean, square = ratios
        return mean / (square.sqrt_() + group["eps"])
