"""What GPUs can do: by their data sheets, for a plan, and measured, for `phenaki doctor --gpu`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.precision import autocast
from phenaki.tokenizers import TokenizerSpec
from phenaki.training.cost import Recipe, make_step
from phenaki.training.layers import prepare_layers

_ROWS = 8192  # of the matrices that are multiplied, which is large enough for any GPU
_BYTES = 1 << 30  # of the copy, more than a cache holds
_SECONDS = 1.0  # for each measurement


@dataclass(frozen=True)
class GPU:
    """memory in bytes, flops in bfloat16 a second (dense), bandwidth in bytes a second."""

    name: str
    memory: float
    flops: float
    bandwidth: float


GPUS = {
    "h100": GPU("H100 SXM", 80e9, 989e12, 3.35e12),
    "h200": GPU("H200", 141e9, 989e12, 4.8e12),
    "a100": GPU("A100 SXM 80 GB", 80e9, 312e12, 2.04e12),
    "l40s": GPU("L40S", 48e9, 362e12, 0.864e12),
    "4090": GPU("GeForce RTX 4090", 24e9, 165e12, 1.01e12),
}


def find_gpu(name: str) -> GPU:
    """Raises PhenakiError for one that is not in the table."""
    if name.lower() not in GPUS:
        raise PhenakiError(f"--gpu '{name}' is not known.{did_you_mean(name, GPUS)} Known: {', '.join(GPUS)}")
    return GPUS[name.lower()]


@dataclass(frozen=True)
class Measured:
    """What a device does: operations a second of matrix products in bfloat16, bytes a second that a copy reads and
    writes, and seconds from one kernel to the next where kernels are tiny."""

    flops: float
    bandwidth: float
    launch: float


def measure(device: torch.device, rows: int = _ROWS, size: int = _BYTES, seconds: float = _SECONDS) -> Measured:
    """In about three times so many seconds."""
    a = torch.randn(rows, rows, device=device).bfloat16()
    product = _seconds_of(lambda: a @ a, device, seconds)
    source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = _seconds_of(lambda: target.copy_(source), device, seconds)
    one = torch.zeros(1, device=device)
    return Measured(2 * rows**3 / product, size / copied, _seconds_of(lambda: one.add_(1), device, seconds))


@dataclass(frozen=True)
class MeasuredStep:
    """Seconds of forward and backward passes of so many clips, and the most bytes that tensors took (0 on a CPU)."""

    clips: int
    seconds: float
    peak: int


def measure_step(
    recipe: Recipe,
    spec: TokenizerSpec | None,
    device: torch.device,
    clips: int,
    compiled: bool,
    seconds: float = _SECONDS,
) -> MeasuredStep:
    """The training step of a recipe with inputs of zeros, without optimizers. Raises PhenakiError if it cannot be
    compiled, or does not fit."""
    recipe = replace(recipe, run=replace(recipe.run, compile=compiled, strategy="ddp"))
    with torch.device(device), _out_of_memory(clips):
        step = make_step(recipe, spec)
        prepare_layers([*step.networks.values(), *step.loss_blocks], recipe.run, device)
        run = partial(step.run, clips, partial(autocast, device, recipe.run.precision), False)
        run()  # compiles
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        took = _seconds_of(run, device, seconds)
    return MeasuredStep(clips, took, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)


@contextmanager
def _out_of_memory(clips: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PhenakiError(f"{clips} clips do not fit into the memory of this device") from error


def measure_all_reduce(count: int, size: int = _BYTES // 4) -> float:
    """Bytes a second that `count` GPUs of this machine exchange in an all-reduce by NCCL, each of so many bytes."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    torch.multiprocessing.start_processes(_all_reduce, (count, size, queue), nprocs=count, start_method="spawn")
    return queue.get()


def _all_reduce(rank: int, count: int, size: int, queue: Any) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl", init_method="tcp://127.0.0.1:29419", rank=rank, world_size=count, device_id=device
    )
    gradients = torch.zeros(size // 2, dtype=torch.bfloat16, device=device)
    for _ in range(3):
        torch.distributed.all_reduce(gradients)
    torch.cuda.synchronize()
    began, times = time.perf_counter(), 10
    for _ in range(times):
        torch.distributed.all_reduce(gradients)
    torch.cuda.synchronize()
    if rank == 0:
        queue.put(2 * (count - 1) / count * size * times / (time.perf_counter() - began))
    torch.distributed.destroy_process_group()


def _seconds_of(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Of one call, over as many as fit into `seconds`, two at least."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    run()
    wait()
    began, times, most = time.perf_counter(), 0, 2
    while times < 2 or time.perf_counter() - began < seconds:
        for _ in range(most):
            run()
        wait()
        times, most = times + most, 2 * most
    return (time.perf_counter() - began) / times
