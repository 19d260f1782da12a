"""The mean of the gradients over all processes, on its way while the backward pass still goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from phenaki.training.processes import Processes

_AT_ONCE = 25 << 20  # bytes, as in torch's DDP: fewer do not fill the wire, more leave less of the pass to hide behind


class _Sent(NamedTuple):
    parameters: list[Tensor]
    gradients: Tensor
    work: dist.Work


class GradientReducer:
    """Averages the gradients of some parameters: a backward pass, or `passes` of them that add up, then `finish`.

    A gradient is sent once it is whole and those that are ready fill a transfer. Which are ready when is a matter of
    the graph, and that is the same in all processes, since the batches of a step are of one length and source;
    parameters that have no gradient in it stay without, as they would with one process. Unless `early`, all wait for
    `finish`.
    """

    def __init__(self, parameters: Iterable[Tensor], processes: Processes, passes: int = 1, early: bool = True):
        self._parameters, self._processes, self._passes = list(parameters), processes, passes
        self._forget()
        if processes.count > 1 and early:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._one_more)

    def _forget(self) -> None:
        self._seen: Counter[int] = Counter()
        self._ready: list[Tensor] = []
        self._sent: list[_Sent] = []

    def _one_more(self, parameter: Tensor) -> None:
        """A backward pass has added to the parameter's gradient."""
        self._seen[id(parameter)] += 1
        if self._seen[id(parameter)] < self._passes:
            return
        self._ready.append(parameter)
        if sum(ready.grad.nbytes for ready in self._ready) > _AT_ONCE:
            self._send(self._ready[:-1])  # the last one waits for `finish`, which may have to poison it
            self._ready = self._ready[-1:]

    def _send(self, parameters: list[Tensor]) -> None:
        if parameters:
            gradients = torch.cat([parameter.grad.flatten() for parameter in parameters])
            with self._processes.answered():
                work = dist.all_reduce(gradients, async_op=True)
            self._sent.append(_Sent(parameters, gradients, work))

    @torch.no_grad()
    def finish(self, loss: Tensor | float) -> None:
        """Put the mean of all processes in the place of each gradient: not a number where the `loss` of any of them is
        not finite, so that none takes the step."""
        gone = {id(parameter) for sent in self._sent for parameter in sent.parameters}
        rest = [parameter for parameter in self._parameters if parameter.grad is not None and id(parameter) not in gone]
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
        self._forget()


@torch.no_grad()
def poison(parameters: Sequence[Tensor], loss: Tensor | float) -> None:
    """Make a gradient not a number if the loss is not finite; nothing waits for the device to find out."""
    if parameters:
        parameters[0].grad += 0 * loss
