"""The table of docs/scaling.md: what the paper's two stages take on GPUs.

`python benchmarks/scaling.py` prints it, row by row. Nothing is trained or allocated; it takes some minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from phenaki.tokenizers import build_tokenizer
from phenaki.training import recipes
from phenaki.training.cost import Recipe
from phenaki.training.hardware import GPUS
from phenaki.training.plan import USABLE, Devices, Plan, make_plan, short


@dataclass(frozen=True)
class Row:
    """How a recipe is run on so many GPUs."""

    recipe: str
    count: int
    gpu: str
    strategy: str = "ddp"
    checkpointing: bool = False
    accumulate: int = 1


ROWS = (
    Row("cvivit_128", 8, "h100"),
    Row("paper", 64, "h100", "fsdp"),
    Row("cvivit_128", 1, "h100", accumulate=4),
    Row("paper", 8, "h100", "fsdp", True, 4),
    Row("cvivit_128", 64, "h100"),
    Row("cvivit_128", 1, "4090", accumulate=16),
)


def planned(row: Row) -> Plan:
    recipe: Recipe = (recipes.TOKENIZER_RECIPES | recipes.GENERATOR_RECIPES)[row.recipe]()
    recipe = replace(
        recipe,
        run=replace(recipe.run, checkpointing=row.checkpointing),
        optimizer=replace(recipe.optimizer, accumulate=row.accumulate),
    )
    with torch.device("meta"):
        spec = build_tokenizer(recipes.cvivit_128().tokenizer).spec
    return make_plan(recipe, Devices(row.count, gpu=GPUS[row.gpu], strategy=row.strategy), spec)


def main() -> None:
    columns = ("recipe", "devices", "how", "memory each", "a step", "days", "MFU")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    for row in ROWS:
        plan = planned(row)
        how = [row.strategy] if row.count > 1 else []
        how += ["checkpointing"] if row.checkpointing else []
        how += [f"accumulate {row.accumulate}"] if row.accumulate > 1 else []
        fits = plan.memory <= USABLE * GPUS[row.gpu].memory
        cells = (
            f"`{row.recipe}`",
            f"{row.count} {GPUS[row.gpu].name}",
            ", ".join(how),
            f"{short(plan.memory)}B{'' if fits else ', too much'}",
            f"{plan.step_seconds:.2g} s",
            f"{plan.seconds / 86400:.2g}",
            f"{plan.utilisation:.0%}",
        )
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
