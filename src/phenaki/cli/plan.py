"""What a training will take: `phenaki plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from phenaki.cli.app import app
from phenaki.cli.train import ChangesArgument
from phenaki.core.errors import PhenakiError

_TOKENIZERS = {"masked_debug": "cvivit_debug", "masked_shapes_64": "cvivit_shapes_64"}
_GENERATORS = {"critic_debug": "masked_debug", "critic_shapes_64": "masked_shapes_64"}  # whose ids the critics score


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe of any stage.")],
    devices: Annotated[int, typer.Option(help="How many GPUs; run.device=cpu is for CPUs.")] = 1,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory of each, such as 80GB: says what fits.", show_default="it is not asked"
        ),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="TFLOP/s that each reaches while it trains, a third to a half of its data sheet: says how long.",
            show_default="it is not asked",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="ddp holds weights and optimizer on each device, fsdp shards them.", show_default="the recipe's"
        ),
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Layers run again in the backward pass, to need less memory.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Of the tokenizer whose ids a generator writes.",
            show_default="the one that the recipe was made for",
        ),
    ] = None,
    changes: ChangesArgument = None,
) -> None:
    """Say what a training takes, without allocating it: parameters, operations, memory, time, data.

    phenaki plan paper --devices 64 --memory 80GB --tflops 400 --strategy fsdp --checkpointing

    phenaki plan cvivit_128 --devices 8 --memory 80GB --tflops 400 data.batch=64
    """
    if strategy not in (None, "ddp", "fsdp"):
        raise PhenakiError(f"--strategy '{strategy}' is neither ddp nor fsdp")

    import torch

    from phenaki.core.config import override
    from phenaki.tokenizers import build_tokenizer
    from phenaki.training import recipes
    from phenaki.training.plan import Devices, make_plan, parse_bytes

    made = [*(changes or []), *(["run.checkpointing=true"] if checkpointing else [])]
    every = recipes.TOKENIZER_RECIPES | recipes.GENERATOR_RECIPES | recipes.CRITIC_RECIPES
    configured = override(recipes.recipe(recipe, every), made)
    hardware = Devices(devices, parse_bytes(memory) if memory else None, tflops, strategy or configured.run.strategy)
    spec = None
    model = recipes.recipe(_GENERATORS[recipe], recipes.GENERATOR_RECIPES) if recipe in _GENERATORS else None
    if recipe not in recipes.TOKENIZER_RECIPES:
        with torch.device("meta"):
            named = tokenizer or _TOKENIZERS.get(_GENERATORS.get(recipe, recipe), "cvivit_128")
            spec = build_tokenizer(recipes.recipe(named, recipes.TOKENIZER_RECIPES).tokenizer).spec
    print("\n".join(make_plan(configured, hardware, spec, model).lines()))
