"""Gradients: accumulated over micro-batches, averaged over processes while the backward pass still runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from phenaki.training.processes import Processes

_BUCKET = 25 << 20  # bytes, as in torch's DDP: smaller ones waste bandwidth, larger ones overlap less with the pass


MicroBatch, Output = TypeVar("MicroBatch"), TypeVar("Output")


def accumulate_gradients(
    micro_batches: Sequence[MicroBatch],
    compute_loss: Callable[[MicroBatch], tuple[Tensor, dict[str, Tensor], Output]],
) -> tuple[Tensor, dict[str, Tensor], list[Output]]:
    """Forward and backward passes of the micro-batches of a batch.

    `compute_loss` returns what a micro-batch adds to the objective and to the losses of the batch, and its outputs.
    Returns the sums, without their graph, and the outputs of each.
    """
    objective, losses, outputs = 0.0, {}, []
    for micro_batch in micro_batches:
        term, terms, output = compute_loss(micro_batch)
        term.backward()
        objective = objective + term.detach()
        losses = {name: losses.get(name, 0.0) + value.detach() for name, value in terms.items()}
        outputs.append(output)
    return objective, losses, outputs


def concatenate(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of micro-batches, one after the other."""
    return {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}


class _Bucket(NamedTuple):
    parameters: list[Tensor]
    gradients: Tensor
    work: dist.Work


class GradientReducer:
    """All-reduces the gradients of some parameters: after `passes` backward passes that accumulate, call `finish`.

    Gradients are sent in buckets as soon as they are complete. The order in which they complete is a property of the
    graph, which is the same in all processes, since the batches of a step have one length and source; parameters
    outside of the graph keep no gradient, as with one process. Unless `early`, all are sent by `finish`.
    """

    def __init__(self, parameters: Iterable[Tensor], processes: Processes, passes: int = 1, early: bool = True):
        self._parameters, self._processes, self._passes = list(parameters), processes, passes
        self._reset()
        if processes.count > 1 and early:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._accumulated)

    def _reset(self) -> None:
        self._seen: Counter[int] = Counter()
        self._ready: list[Tensor] = []
        self._sent: list[_Bucket] = []

    def _accumulated(self, parameter: Tensor) -> None:
        """A backward pass has added to the parameter's gradient."""
        self._seen[id(parameter)] += 1
        if self._seen[id(parameter)] < self._passes:
            return
        self._ready.append(parameter)
        if sum(ready.grad.nbytes for ready in self._ready) > _BUCKET:
            self._send(self._ready[:-1])  # the last one waits for `finish`, which may have to poison it
            self._ready = self._ready[-1:]

    def _send(self, parameters: list[Tensor]) -> None:
        if parameters:
            gradients = torch.cat([parameter.grad.flatten() for parameter in parameters])
            with self._processes.answered():
                work = dist.all_reduce(gradients, async_op=True)
            self._sent.append(_Bucket(parameters, gradients, work))

    @torch.no_grad()
    def finish(self, loss: Tensor | float) -> None:
        """Replace each gradient by its mean over all processes: by NaN if the `loss` of any process is not finite, so
        that none takes the step."""
        sent = {id(parameter) for bucket in self._sent for parameter in bucket.parameters}
        rest = [parameter for parameter in self._parameters if parameter.grad is not None and id(parameter) not in sent]
        poison(rest, loss)
        if self._processes.count == 1:
            return
        self._send(rest)
        for parameters, gradients, work in self._sent:
            with self._processes.answered():
                work.wait()
            gradients /= self._processes.count
            parts = gradients.split([parameter.numel() for parameter in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        self._reset()


@torch.no_grad()
def poison(parameters: Sequence[Tensor], loss: Tensor | float) -> None:
    """Make a gradient NaN if the loss is not finite, without waiting for the device to find out."""
    if parameters:
        parameters[0].grad += 0 * loss
