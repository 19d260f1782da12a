"""What the stages share: networks in training with moving averages and optimizers, and the loop of their updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from phenaki.core.precision import autocast
from phenaki.data.batch import Batch
from phenaki.data.loader import Batches
from phenaki.training.layers import prepare_layers
from phenaki.training.optim import Optimizers, averaged
from phenaki.training.run import Metrics, Run
from phenaki.training.sharding import gather_full

Networks = dict[str, nn.Module]


class Trainer(ABC):
    """The networks in training of a run, their optimizers and moving averages. Stages define `update`.

    averages: the names, in checkpoints, of the moving averages, by network. state: what a checkpoint holds; frozen
    networks are not in it.
    """

    def __init__(
        self,
        recipe: Any,
        run: Run,
        networks: Networks,
        build_optimizers: Callable[[Networks, Any], dict[str, Optimizers]],
        averages: Mapping[str, str] | None = None,
    ):
        self.recipe, self.run = recipe, run
        run.check_metrics = self.check_metrics
        self.autocast = partial(autocast, run.device, recipe.run.precision)
        for network in networks.values():
            run.processes.broadcast([*network.parameters(), *network.buffers()])
        names = averages or {name: f"{name}_ema" for name in networks}
        self._averaged = [networks[name] for name in names]
        self.averages = {name: averaged(networks[name], recipe.optimizer.ema_decay) for name in names}
        prepare_layers(self._averaged, recipe.run, run.device, self.averages.values())
        self.optimizers, passes = build_optimizers(networks, recipe), recipe.optimizer.accumulate
        self._reducers = {name: run.gradient_reducer(each.parameters, passes) for name, each in self.optimizers.items()}
        self.state = networks | {names[name]: average for name, average in self.averages.items()} | self.optimizers

    @abstractmethod
    def update(self, batch: Any, step: int) -> Metrics:
        """One update with what `load` makes of a batch. Returns the metrics, scalars: those on a GPU are not read yet,
        as the host would wait for it."""

    def check_metrics(self, metrics: dict[str, float], step: int) -> None:  # noqa: B027, a stage need not
        """Look at the metrics of a step that was taken, when they are read."""

    def load(self, batch: Batch) -> Any:
        return batch

    def take_step(self, name: str, objective: Tensor, step: int) -> Tensor:
        """Average the gradients over the processes, and take a step of the optimizers `name`.

        Returns the norm of the gradients. If it is not finite, no step was taken: the objective of any process that is
        not finite makes the gradients of all NaN.
        """
        self._reducers[name].finish(objective)
        return self.optimizers[name].update(step)

    def update_averages(self, norm: Tensor) -> None:
        """Unless no step was taken, as `norm` tells. On a GPU nobody asks: weights that did not change are averaged."""
        if not (norm.is_cpu and not norm.isfinite()):
            for average, network in zip(self.averages.values(), self._averaged, strict=True):
                average.update_parameters(network)

    def train(self, data: Batches, preview: Callable[[Networks], None]) -> None:
        """Run all updates that remain. `preview` gets the averaged networks in the main process, every
        `run.eval_every` steps."""
        run, state = self.run, self.state | {"data": data}
        run.restore(state)
        for step in run.steps(state, data.prefetch):
            run.log(**self.update(self.load(run.next(data)), step))
            if run.completes(run.config.eval_every):
                self._preview(preview)

    def _preview(self, preview: Callable[[Networks], None]) -> None:
        """In a function of its own, which lets full copies of sharded averages go."""
        full = {name: gather_full(average.module, self.run.is_main) for name, average in self.averages.items()}
        if self.run.is_main:
            with self.run.evaluating():
                preview({name: network.eval() for name, network in full.items()})
