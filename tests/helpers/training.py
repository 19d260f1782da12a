"""Short training runs and the files they write."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.training.checkpoints import Checkpoints, load
from phenaki.training.recipes import cvivit_debug
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerRecipe, TokenizerTrainer


def lasting(recipe, steps: int, **changes):
    """The recipe for a number of steps, with previews and checkpoints only at the end."""
    run = replace(recipe.run, steps=steps, eval_every=10_000, checkpoint_every=10_000, log_every=1, **changes)
    return replace(recipe, run=run)


def saved(folder: Path) -> dict:
    """The contents of a run's newest checkpoint."""
    newest = Checkpoints(folder, 1, 0, print).newest()
    assert newest is not None
    return load(newest, torch.device("cpu"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint, by their path in it."""
    flat: dict[str, torch.Tensor] = {}

    def collect(prefix: str, value) -> None:
        if isinstance(value, torch.Tensor):
            flat[prefix] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(f"{prefix}.{key}", item)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                collect(f"{prefix}.{index}", item)

    collect("", saved(folder)["state"])
    return flat


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGINT, as Ctrl-C does, during `step`."""
    log = Run.log

    def log_and_stop(self: Run, **values: float) -> None:
        log(self, **values)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", log_and_stop)


def tiny_recipe(recipe: TokenizerRecipe | None = None, **loss: float) -> TokenizerRecipe:
    """Clips of 16 x 16 pixels in float32; a small discriminator if `adversarial` has a weight."""
    recipe = recipe or cvivit_debug()
    small = DiscriminatorConfig(width=4, blocks=2, penalty_every=2)
    return replace(
        recipe,
        tokenizer=replace(recipe.tokenizer, image_size=(16, 16)),
        data=replace(recipe.data, size=16, lengths=(1, 3), length_weights=(0.2, 0.8)),
        loss=replace(recipe.loss, **loss),
        discriminator=small if loss.get("adversarial") else recipe.discriminator,
        run=replace(recipe.run, precision="float32"),
    )


def checkpointing_recipe(steps: int, **run: object) -> TokenizerRecipe:
    """The tiny recipe with a checkpoint every two steps."""
    recipe = tiny_recipe(lasting(cvivit_debug(), steps))
    return replace(recipe, run=replace(recipe.run, checkpoint_every=2, **run))


def trainer(recipe: TokenizerRecipe, folder: Path) -> TokenizerTrainer:
    return TokenizerTrainer(recipe, Run(folder, recipe.run, recipe))


def random_clips(batch: int = 4, frames: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, frames, 16, 16, generator=torch.Generator().manual_seed(3))
