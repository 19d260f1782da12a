"""What a training takes on given devices: memory, time, storage and bandwidth. docs/scaling.md has the assumptions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from phenaki.conditioning import NoTextConfig, encoder_class
from phenaki.core.errors import PhenakiError
from phenaki.core.progress import format_duration
from phenaki.tokenizers import TokenizerSpec
from phenaki.training.cost import Cost, Recipe, step_cost
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.hardware import GPU
from phenaki.training.sharding import Strategy, check_shardable
from phenaki.training.tokenizer import TokenizerRecipe

_OF_PEAK, _OF_BANDWIDTH = 0.7, 0.8  # that large matrix products, and other kernels, reach of a data sheet
_OPTIMIZER_PASSES = 13  # over float32 weights: clipping, AdamW, averages
_LAUNCH = 5e-6  # seconds of the host for each kernel
USABLE = 0.9  # fraction of a device's memory: the rest goes to the driver and to fragmentation
_A_MACHINE = 8  # devices, among which FSDP shards; several machines hold replicas
BITS_PER_PIXEL = 0.25  # of packed H.264 at training sizes
_SHARDED = {"weights": 1, "gradients": 1, "averages": 1, "optimizer": 2}  # tensors of each kind per weight, with AdamW
_GATHERED = 4  # under FSDP, of a block: weights and gradients of two in bfloat16, and float32 sums of the gradients
_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Devices:
    """memory: bytes of each. teraflops: that each reaches in training, less than the data sheet says. None: unknown.
    strategy: that of the run (`RunConfig`). gpu: whose data sheet tells the time, instead of `teraflops`."""

    count: int = 1
    memory: float | None = None
    teraflops: float | None = None
    strategy: Strategy = "ddp"
    gpu: GPU | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise PhenakiError(f"{self.count} devices: give 1 or more")
        if self.memory is not None and not self.memory > 0:
            raise PhenakiError(f"devices with {self.memory:g} bytes of memory: give more than 0")
        if self.teraflops is not None and not self.teraflops > 0:
            raise PhenakiError(f"devices with {self.teraflops:g} TFLOP/s: give more than 0")


@dataclass(frozen=True)
class Plan:
    """cost: of a device's part of a step. bytes: per device, by what they hold. largest: the most clips that fit on a
    device at once; None if its memory is unknown. clip_bytes: of a stored clip."""

    recipe: Recipe
    devices: Devices
    cost: Cost
    bytes: dict[str, int]
    largest: int | None
    clip_bytes: int

    @property
    def memory(self) -> int:
        """Bytes per device."""
        return sum(self.bytes.values())

    @property
    def fits(self) -> bool | None:
        return None if self.devices.memory is None else self.memory <= USABLE * self.devices.memory

    @property
    def roofline(self) -> dict[str, float]:
        """Seconds of a step by what takes them, on a GPU: matrix products by operations or bytes, all else by bytes."""
        gpu, traffic = self.devices.gpu, self.cost.traffic
        bandwidth, passes = _OF_BANDWIDTH * gpu.bandwidth, self.recipe.optimizer.accumulate
        return {
            "matrix products": max(self.cost.flops / (_OF_PEAK * gpu.flops), passes * traffic.matrix_bytes / bandwidth),
            "other kernels": passes * traffic.other_bytes / bandwidth,
            "optimizers": _OPTIMIZER_PASSES * self.bytes["gradients"] / bandwidth,
        }

    @property
    def launch_seconds(self) -> float:
        """The host needs at least so long to start the kernels of a step."""
        return self.recipe.optimizer.accumulate * self.cost.traffic.launches * _LAUNCH

    @property
    def utilisation(self) -> float:
        """Operations of the model as a fraction of what the GPU's data sheet allows in that time (MFU)."""
        model_flops = self.cost.flops * (0.75 if self.recipe.run.checkpointing else 1)
        return model_flops / (self.devices.gpu.flops * self.step_seconds)

    @property
    def step_seconds(self) -> float | None:
        if self.devices.gpu is not None:
            return max(sum(self.roofline.values()), self.launch_seconds)
        return self.devices.teraflops and self.cost.flops / (self.devices.teraflops * 1e12)

    @property
    def seconds(self) -> float | None:
        """Of all steps."""
        return self.step_seconds and self.recipe.run.steps * self.step_seconds

    @property
    def gradient_bytes(self) -> float:
        """Sent by each device in a step: twice the gradients, around the ring; FSDP gathers shards twice, three times
        with checkpointing, and sends their gradients once."""
        shards = self.cost.shardable if self.devices.strategy == "fsdp" else 0
        gathered = 3 if self.recipe.run.checkpointing else 2
        sent = 2 * (self.cost.bytes["gradients"] - shards) + (1 + gathered) * shards
        return sent * (self.devices.count - 1) / self.devices.count

    def lines(self) -> list[str]:
        """A report."""
        total = self.devices.count * self.cost.flops
        components = self.cost.parameters
        lines = [
            f"parameters          {sum(components.values()):>18,}",
            *(f"  {name:<18}{count:>18,}" for name, count in components.items()),
            f"ids in a batch      {self.devices.count * self.cost.tokens:>18,}",
            f"operations, a step  {short(total):>18}FLOP",
            f"memory of a device  {short(self.memory):>18}B",
            *(f"  {kind:<18}{short(size):>18}B" for kind, size in self.bytes.items()),
            *self._fit_lines(),
            *self._time_lines(),
            f"data, a clip        {short(self.clip_bytes):>18}B stored, {short(1e6 * self.clip_bytes)}B a million",
        ]
        return lines

    def _fit_lines(self) -> list[str]:
        if self.largest is None:
            return []
        budget = f"{USABLE:.0%} of {short(self.devices.memory)}B"
        if not self.largest:
            return [f"fits                                no: not even one clip at a time into {budget}"]
        answer = "yes" if self.fits else "no"
        return [f"fits                {answer:>18}: {budget}; at most {self.largest:,} clips at a time on a device"]

    def _time_lines(self) -> list[str]:
        if self.step_seconds is None:
            return []
        rate = self.recipe.data.batch / self.step_seconds
        lines = [
            *self._roofline_lines(),
            f"steps a day         {86400 / self.step_seconds:>18,.0f}",
            f"time                {format_duration(self.seconds):>18} for {self.recipe.run.steps:,} steps",
            f"data, a second      {short(rate * self.clip_bytes):>18}B, {short(rate)}clips",
        ]
        if self.devices.count > 1:
            sent = self.gradient_bytes / self.step_seconds
            lines.append(f"network             {short(sent):>18}B/s of each device; waiting for it is not counted")
        return lines

    def _roofline_lines(self) -> list[str]:
        if self.devices.gpu is None:
            return []
        gpu, moved = self.devices.gpu, self.recipe.optimizer.accumulate * self.cost.traffic.other_bytes
        times = self.roofline | {"starting kernels": self.launch_seconds}
        slowest = max(times, key=times.get)
        reasons = {
            "matrix products": f"mostly matrix products, at {_OF_PEAK:.0%} of the peak",
            "other kernels": f"other kernels move {short(moved)}B at {short(_OF_BANDWIDTH * gpu.bandwidth)}B/s",
            "optimizers": "optimizers take the longest: larger batches pay",
            "starting kernels": "kernels are too short for the host to start them in time: run.compile=true",
        }
        return [
            f"step on a {gpu.name}",
            *(f"  {kind:<18}{1e3 * seconds:>18,.1f} ms" for kind, seconds in times.items()),
            f"utilisation         {self.utilisation:>18.0%} of {gpu.flops / 1e12:,.0f} TFLOP/s: {reasons[slowest]}",
        ]


def make_plan(
    recipe: Recipe, devices: Devices, spec: TokenizerSpec | None = None, model: GeneratorRecipe | None = None
) -> Plan:
    """`spec` and `model` are those of `step_cost`. Raises its errors, and one for a batch that does not divide."""
    count = devices.count
    if recipe.data.batch % count:
        fewer = max(n for n in range(1, count + 1) if recipe.data.batch % n == 0)
        more = -(-recipe.data.batch // count) * count
        raise PhenakiError(
            f"data.batch {recipe.data.batch} does not divide among {count} devices: take {fewer} of them, or "
            f"data.batch={more}"
        )
    if devices.strategy == "fsdp":
        check_shardable(recipe.optimizer.kind, count)
    clips = recipe.data.batch // count
    hardware = "cpu" if recipe.run.device == "cpu" else "cuda"

    def cost_of(number: int) -> Cost:
        return step_cost(recipe, spec, number, hardware, model)

    cost = cost_of(clips)
    sizes = _on_a_device(cost, devices)
    largest = None
    if devices.memory is not None:
        at_once = math.ceil(clips / recipe.optimizer.accumulate)
        other = 2 if at_once == 1 else 1
        activations = cost_of(other * recipe.optimizer.accumulate).bytes["activations"]
        largest = _largest(sizes, at_once, other, activations, USABLE * devices.memory)
    return Plan(recipe, devices, cost, sizes, largest, clip_bytes(recipe, cost.tokens // clips, spec, model))


def _on_a_device(cost: Cost, devices: Devices) -> dict[str, int]:
    shards = cost.shardable if devices.strategy == "fsdp" else 0
    elsewhere = shards - -(-shards // min(devices.count, _A_MACHINE))
    sizes = {kind: size - _SHARDED.get(kind, 0) * elsewhere for kind, size in cost.bytes.items()}
    if devices.count > 1:  # replicated gradients are reduced in a copy
        sizes["sum of gradients"] = cost.bytes["gradients"] - shards
    gathered = {"gathered blocks": _GATHERED * cost.largest_block, "averages for previews": shards}
    return sizes | (gathered if shards else {})


def _largest(sizes: dict[str, int], clips: int, others: int, activations: int, memory: float) -> int:
    """The most clips that fit at once: activations are linear in their number, known at two numbers."""
    each = (sizes["activations"] - activations) / (clips - others)
    fixed = sum(sizes.values()) - clips * each
    return max(0, int((memory - fixed) // each))


def clip_bytes(recipe: Recipe, tokens: int, spec: TokenizerSpec | None, model: GeneratorRecipe | None = None) -> int:
    """Bytes of a stored clip of the longest length: H.264 for tokenizers; else ids, and float16 embeddings of the
    longest text if its encoder is frozen."""
    if isinstance(recipe, TokenizerRecipe):
        height, width = recipe.tokenizer.image_size
        return math.ceil(max(recipe.data.lengths) * height * width * BITS_PER_PIXEL / 8)
    ids = tokens * np.min_scalar_type(spec.vocab_size - 1).itemsize
    text = (model or recipe).text
    if encoder_class(text).learned or isinstance(text, NoTextConfig):
        return ids
    return ids + 2 * text.length * text.width


def parse_bytes(text: str) -> float:
    """80GB, 24 GiB or 1.5TB in bytes. Raises PhenakiError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise PhenakiError(f"'{text}' is not a memory size: give a number and a unit, such as 80GB, 24GiB or 512MB")
    return float(match[1]) * _UNITS[match[2].upper()]


def short(value: float) -> str:
    """Three digits and an SI prefix."""
    power = min(int(math.log10(max(value, 1))) // 3, 6)
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"
