"""Recipes of inverse dynamics models."""

from __future__ import annotations

from dataclasses import replace

from phenaki.data.config import DataConfig
from phenaki.training.config import RunConfig
from phenaki.training.inverse_dynamics import InverseDynamicsRecipe, InverseDynamicsSizes
from phenaki.training.optim import OptimizerConfig
from phenaki.training.recipes.shapes import RECORDINGS


def inverse_dynamics_64() -> InverseDynamicsRecipe:
    """For recordings of 64 x 64 pixels, or about as many: minutes on a CPU."""
    return InverseDynamicsRecipe(
        data=DataConfig(RECORDINGS, batch=8, lengths=(17,), seed=2),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=50, cooldown_fraction=0.5, clip=1.0),
        run=RunConfig(steps=1_500, log_every=25, eval_every=250, checkpoint_every=250),
    )


def inverse_dynamics_debug() -> InverseDynamicsRecipe:
    """One that trains in seconds, for tests and first tries."""
    recipe = inverse_dynamics_64()
    return replace(
        recipe,
        inverse_dynamics=InverseDynamicsSizes(features=(16, 16), widths=(16, 32), hidden=64),
        data=replace(recipe.data, size=32, batch=4, lengths=(5,), workers=0),
        run=RunConfig(steps=50, log_every=10, eval_every=50, checkpoint_every=50),
    )
