"""What a GPU does and what `phenaki plan` takes it to do: `phenaki doctor --gpu`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phenaki.core.errors import PhenakiError

if TYPE_CHECKING:
    import torch

    from phenaki.training.hardware import GPU

_RECIPES = ("masked_shapes_64", "base_128", "cvivit_shapes_64", "cvivit_128", "conv3d_128")
_ROW = "{:<18}{:>6}  {:<9} {:>12} {:>12} {:>10} {:>10}"


def gpu_report(
    device: torch.device,
    recipes: Sequence[str] = _RECIPES,
    seconds: float = 1.0,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[str]:
    """Lines: what the device does, and steps of recipes, eager and compiled, beside what the plan expects.

    sizes: arguments of `training.hardware.measure`, for a device that is not a GPU.
    """
    import torch

    from phenaki.training.hardware import GPU, measure, measure_all_reduce

    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else device.type
    memory = torch.cuda.get_device_properties(device).total_memory if is_gpu else 0
    yield f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {memory / 1e9:.0f} GB"
    found = measure(device, seconds=seconds, **(sizes or {}))
    yield (
        f"matrix products in bfloat16 {found.flops / 1e12:.3g} TFLOP/s, copies {found.bandwidth / 1e9:.4g} GB/s, "
        f"{1e6 * found.launch:.3g} us a kernel"
    )
    yield _ROW.format("recipe", "clips", "", "measured", "planned", "peak", "planned")
    for recipe in recipes:
        yield from _step_lines(recipe, device, GPU(name, memory, found.flops, found.bandwidth), seconds)
    if torch.cuda.device_count() > 1:
        yield f"all-reduce of two GPUs by NCCL {measure_all_reduce(2) / 1e9:.4g} GB/s"


def _step_lines(name: str, device: torch.device, gpu: GPU, seconds: float) -> Iterator[str]:
    """Of a recipe without the perceptual losses, whose weights may be missing; as many clips as it takes at a time."""
    from phenaki.training.hardware import measure_step
    from phenaki.training.plan import Devices, make_plan

    recipe, spec = _configured(name)
    clips = recipe.data.batch
    for compiled in (False, True):
        kind = "compiled" if compiled else "eager"
        made = replace(recipe, run=replace(recipe.run, compile=compiled))
        try:
            plan = make_plan(made, Devices(gpu=gpu), spec)
            step = measure_step(made, spec, device, clips, compiled, seconds)
        except PhenakiError as error:
            yield f"{name:<18}{clips:>6}  {kind:<9}{error}"
            continue
        planned = sum(plan.roofline.values()) - plan.roofline["optimizers"]
        sizes = (f"{step.peak / 1e9:.3g} GB", f"{plan.memory / 1e9:.3g} GB") if step.peak else ("", "")
        yield _ROW.format(name, clips, kind, f"{1e3 * step.seconds:.4g} ms", f"{1e3 * planned:.4g} ms", *sizes)


def _configured(name: str) -> tuple[Any, Any]:
    """The recipe, in one micro-batch, and the spec of its tokenizer."""
    import torch

    from phenaki.cli.plan import TOKENIZERS
    from phenaki.tokenizers import build_tokenizer
    from phenaki.training import recipes

    recipe = recipes.recipe(name, recipes.TOKENIZER_RECIPES | recipes.GENERATOR_RECIPES)
    if name in recipes.TOKENIZER_RECIPES:
        recipe, spec = replace(recipe, loss=replace(recipe.loss, lpips=0.0, i3d=0.0)), None
    else:
        with torch.device("meta"):
            spec = build_tokenizer(recipes.TOKENIZER_RECIPES[TOKENIZERS.get(name, "cvivit_128")]().tokenizer).spec
    clips = -(-recipe.data.batch // recipe.optimizer.accumulate)
    return replace(
        recipe, data=replace(recipe.data, batch=clips), optimizer=replace(recipe.optimizer, accumulate=1)
    ), spec
