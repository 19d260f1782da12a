"""Recipes of critics."""

from __future__ import annotations

from dataclasses import replace

from phenaki.generators.critic import CriticConfig
from phenaki.training.critic import CriticRecipe
from phenaki.training.recipes.generators import masked_debug, masked_shapes_64


def critic_debug() -> CriticRecipe:
    """A critic that trains in seconds, for models of `masked_debug`."""
    model = masked_debug()
    run = replace(model.run, steps=50, eval_every=50)
    return CriticRecipe(CriticConfig("token", layers=1), model.prefix, model.optimizer, run, data=model.data)


def critic_shapes_64() -> CriticRecipe:
    """A critic for the released model `shapes-64` as large as its generator, on the same data; it scores ids at the
    temperature of sampling."""
    model = masked_shapes_64()
    critic = CriticConfig("token", temperature=model.sampling.decoding.temperature)
    run = replace(model.run, steps=8_000)
    return CriticRecipe(critic, model.prefix, model.optimizer, run, data=model.data)
