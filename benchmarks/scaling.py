"""The table of docs/scaling.md: what the paper's two stages take, from one GPU to 1,024.

`python benchmarks/scaling.py` prints it. Nothing is trained or allocated; it takes some minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch

from phenaki.tokenizers import TokenizerSpec, build_tokenizer
from phenaki.training import plan, recipes
from phenaki.training.cost import Cost, Recipe, step_cost
from phenaki.training.plan import Devices, Plan, make_plan, short, with_batch

MACHINES = (
    ("1 GPU, 24 GB", Devices(1, 24e9, 60)),
    ("8 GPUs, 80 GB", Devices(8, 80e9, 400)),
    ("64 GPUs", Devices(64, 80e9, 400)),
    ("256 GPUs", Devices(256, 80e9, 400)),
    ("1,024 GPUs", Devices(1024, 80e9, 400)),
)
HEAD = ("devices", "strategy", "batch", "memory each", "max clips each", "days", "data")


def cached(recipe: Recipe) -> None:
    """Have each step counted once: its batch and steps, which rows differ in, leave its cost as it is."""

    @cache
    def counted(spec: TokenizerSpec | None, clips: int, hardware: str, checkpointing: bool) -> Cost:
        changed = replace(recipe, run=replace(recipe.run, checkpointing=checkpointing))
        return step_cost(changed, spec, clips, hardware)

    plan.step_cost = lambda given, spec, clips, hardware, _: counted(spec, clips, hardware, given.run.checkpointing)


def first_that_fits(recipe: Recipe, devices: Devices, spec: TokenizerSpec | None) -> Plan:
    """Of all ways to hold the state, from the fastest to that which needs the least; the last where none fits."""
    for strategy in ("ddp", "fsdp") if devices.count > 1 else ("ddp",):
        for checkpointing in (False, True):
            changed = replace(recipe, run=replace(recipe.run, checkpointing=checkpointing))
            made = make_plan(changed, replace(devices, strategy=strategy), spec)
            if made.fits:
                return made
    return made


def rows(recipe: Recipe, spec: TokenizerSpec | None = None) -> Iterator[tuple[str, ...]]:
    cached(recipe)
    for machine, devices in MACHINES:
        planned = with_batch(recipe, max(recipe.data.batch, devices.count))
        made = first_that_fits(planned, devices, spec)
        state = made.devices.strategy if devices.count > 1 else "-"
        state += ", checkpointing" if made.recipe.run.checkpointing else ""
        batch = made.recipe.data.batch
        yield (
            machine,
            state,
            f"{batch:,}",
            f"{short(made.memory)}B" + ("" if made.fits else " (does not fit)"),
            f"{made.largest:,}" if made.largest else "none",
            f"{made.days:,.0f}" if made.days >= 10 else f"{made.days:.2g}",
            f"{short(batch / made.step_seconds * made.clip_bytes)}B/s",
        )


def table(title: str, lines: Iterator[tuple[str, ...]]) -> str:
    cells = [HEAD, ("---",) * len(HEAD), *lines]
    return f"**{title}**\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n"


def main() -> None:
    first, second = recipes.cvivit_128(), recipes.paper()
    with torch.device("meta"):
        spec = build_tokenizer(first.tokenizer).spec
    print(table("First stage, `cvivit_128`", rows(first)))
    print(table("Second stage, `paper`", rows(second, spec)))


if __name__ == "__main__":
    main()
