"""The table of docs/scaling.md: what the paper's two stages take, from a laptop to 1,024 GPUs.

`python benchmarks/scaling.py` prints it. Nothing is trained or allocated; it takes some minutes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from phenaki.tokenizers import TokenizerSpec, build_tokenizer
from phenaki.training import plan, recipes
from phenaki.training.cost import Cost, Recipe, step_cost
from phenaki.training.plan import Devices, Plan, make_plan, short

DEVICES = {
    "laptop CPU, 16 GB": Devices(1, 16e9, 0.2),
    "1 GPU, 24 GB": Devices(1, 24e9, 60),
    "8 GPUs, 80 GB each": Devices(8, 80e9, 400),
    "64 GPUs": Devices(64, 80e9, 400),
    "256 GPUs": Devices(256, 80e9, 400),
    "1,024 GPUs": Devices(1024, 80e9, 400),
}


def with_batch(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with another batch size, and as many steps as see the same number of clips."""
    steps = max(1, round(recipe.run.steps * recipe.data.batch / batch))
    return replace(recipe, data=replace(recipe.data, batch=batch), run=replace(recipe.run, steps=steps))


def cached(recipe: Recipe) -> None:
    """Count each step once: rows differ in batch and steps, which leave its cost as it is."""

    @cache
    def counted(spec: TokenizerSpec | None, clips: int, hardware: str, checkpointing: bool) -> Cost:
        changed = replace(recipe, run=replace(recipe.run, checkpointing=checkpointing))
        return step_cost(changed, spec, clips, hardware)

    plan.step_cost = lambda given, spec, clips, hardware, _: counted(spec, clips, hardware, given.run.checkpointing)


def first_that_fits(recipe: Recipe, devices: Devices, spec: TokenizerSpec | None) -> Plan:
    """Of all strategies, from the fastest to that which needs the least memory; the last if none fits."""
    for strategy in ("ddp", "fsdp") if devices.count > 1 else ("ddp",):
        for checkpointing in (False, True):
            changed = replace(recipe, run=replace(recipe.run, checkpointing=checkpointing))
            made = make_plan(changed, replace(devices, strategy=strategy), spec)
            if made.fits:
                return made
    return made


def column(recipe: Recipe, spec: TokenizerSpec | None = None) -> list[tuple[str, ...]]:
    """Strategy, memory per device and days, for each of DEVICES."""
    cached(recipe)
    cells = []
    for name, devices in DEVICES.items():
        planned = with_batch(recipe, max(recipe.data.batch, devices.count))
        if "CPU" in name:
            planned = replace(planned, run=replace(planned.run, device="cpu", precision="bfloat16"))
        made = first_that_fits(planned, devices, spec)
        strategy = made.devices.strategy + (", checkpointing" if made.recipe.run.checkpointing else "")
        cells.append(
            (
                strategy if made.fits else "does not fit",
                f"{short(made.memory)}B",
                f"{made.days:,.0f}" if made.days >= 10 else f"{made.days:.2g}",
            )
        )
    return cells


def main() -> None:
    first, second = recipes.cvivit_128(), recipes.paper()
    with torch.device("meta"):
        spec = build_tokenizer(first.tokenizer).spec
    values = ("memory each", "days")
    rows = [("devices", "`cvivit_128`", *values, "`paper`", *values), ("---",) * 7]
    rows += [(name, *one, *two) for name, one, two in zip(DEVICES, column(first), column(second, spec), strict=True)]
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))


if __name__ == "__main__":
    main()
