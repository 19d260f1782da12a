"""Cost of a training run: `phenaki plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.train import ChangesArgument
from phenaki.core.errors import PhenakiError

TOKENIZERS = {"masked_debug": "cvivit_debug", "masked_shapes_64": "cvivit_shapes_64"}
_GENERATORS = {"critic_debug": "masked_debug", "critic_shapes_64": "masked_shapes_64"}  # whose ids the critics score


@app.command(rich_help_panel="Train")
def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe of any stage (see `phenaki recipes`).")],
    devices: Annotated[int, typer.Option(metavar="N", help="Number of GPUs, or of CPUs with run.device=cpu.")] = 1,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory per device, such as 80GB, to check what fits.", show_default=False),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Achieved TFLOP/s per device, usually a third to a half of the peak, to estimate the time.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="h100|h200|a100|l40s|4090",
            help="Estimate the time on such GPUs by counted operations and bytes; implies --memory.",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="ddp|fsdp",
            help="ddp replicates weights and optimizer state, fsdp shards them.",
            show_default="the recipe's",
        ),
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Activation checkpointing: recompute layers in the backward pass.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="For a generator: the recipe of its tokenizer.",
            show_default="the one it was made for",
        ),
    ] = None,
    changes: ChangesArgument = None,
) -> None:
    """Estimate a training run without allocating it: parameters, FLOPs, memory, time, data.

    phenaki plan paper --devices 64 --gpu h100 --strategy fsdp --checkpointing

    phenaki plan cvivit_128 --devices 8 --memory 80GB --tflops 400 data.batch=64
    """
    if strategy not in (None, "ddp", "fsdp"):
        raise PhenakiError(f"--strategy '{strategy}': use ddp or fsdp")

    import torch

    from phenaki.core.config import override
    from phenaki.tokenizers import build_tokenizer
    from phenaki.training import recipes
    from phenaki.training.hardware import find_gpu
    from phenaki.training.plan import Devices, make_plan, parse_bytes

    made = [*(changes or []), *(["run.checkpointing=true"] if checkpointing else [])]
    every = recipes.TOKENIZER_RECIPES | recipes.GENERATOR_RECIPES | recipes.CRITIC_RECIPES
    configured = override(recipes.recipe(recipe, every), made)
    if gpu and tflops:
        raise PhenakiError("--gpu and --tflops are two answers to how fast a device is: give one")
    named = find_gpu(gpu) if gpu else None
    size = parse_bytes(memory) if memory else named and named.memory
    hardware = Devices(devices, size, tflops, strategy or configured.run.strategy, named)
    spec = None
    model = recipes.recipe(_GENERATORS[recipe], recipes.GENERATOR_RECIPES) if recipe in _GENERATORS else None
    if recipe not in recipes.TOKENIZER_RECIPES:
        with torch.device("meta"):
            source = tokenizer or TOKENIZERS.get(_GENERATORS.get(recipe, recipe), "cvivit_128")
            spec = build_tokenizer(recipes.recipe(source, recipes.TOKENIZER_RECIPES).tokenizer).spec
    print("\n".join(make_plan(configured, hardware, spec, model).lines()))
