"""Complete configurations by name. Each is a function that returns a new one; `key=value` overrides single values."""

from collections.abc import Callable
from typing import TypeVar

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.training.critic import CriticRecipe
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.inverse_dynamics import InverseDynamicsRecipe
from phenaki.training.recipes.critics import critic_debug, critic_shapes_64
from phenaki.training.recipes.generators import (
    base_128,
    causal_debug,
    causal_laptop_64,
    causal_laptop_128,
    causal_shapes_64,
    masked_debug,
    masked_shapes_64,
    paper,
)
from phenaki.training.recipes.inverse_dynamics import inverse_dynamics_64, inverse_dynamics_debug
from phenaki.training.recipes.tokenizers import (
    conv3d_64,
    conv3d_128,
    conv3d_debug,
    cvivit_64,
    cvivit_128,
    cvivit_debug,
    cvivit_debug_codebook,
    cvivit_laptop_64,
    cvivit_laptop_128,
    cvivit_shapes_64,
    cvivit_shapes_64_streaming,
)
from phenaki.training.tokenizer import TokenizerRecipe

Recipe = TypeVar("Recipe")
_FIRST_STAGE = (cvivit_debug, cvivit_debug_codebook, cvivit_shapes_64, cvivit_shapes_64_streaming)
_FIRST_STAGE += (cvivit_laptop_64, cvivit_laptop_128, cvivit_64, cvivit_128, conv3d_debug, conv3d_64, conv3d_128)

TOKENIZER_RECIPES: dict[str, Callable[[], TokenizerRecipe]] = {f.__name__: f for f in _FIRST_STAGE}
TOKENIZER_RECIPES["cvivit_paper"] = cvivit_128
GENERATOR_RECIPES: dict[str, Callable[[], GeneratorRecipe]] = {
    f.__name__: f
    for f in (
        masked_debug,
        masked_shapes_64,
        causal_debug,
        causal_shapes_64,
        causal_laptop_64,
        causal_laptop_128,
        base_128,
        paper,
    )
}
INVERSE_DYNAMICS_RECIPES: dict[str, Callable[[], InverseDynamicsRecipe]] = {
    f.__name__: f for f in (inverse_dynamics_debug, inverse_dynamics_64)
}
CRITIC_RECIPES: dict[str, Callable[[], CriticRecipe]] = {f.__name__: f for f in (critic_debug, critic_shapes_64)}
STAGES = {
    "tokenizer": TOKENIZER_RECIPES,
    "generator": GENERATOR_RECIPES,
    "critic": CRITIC_RECIPES,
    "judge": INVERSE_DYNAMICS_RECIPES,
}


def stage_of(name: str) -> str | None:
    """The stage that a recipe trains; None if there is no recipe of that name."""
    return next((stage for stage, recipes in STAGES.items() if name in recipes), None)


def recipe(name: str, recipes: dict[str, Callable[[], Recipe]]) -> Recipe:
    """The recipe of that name. Raises PhenakiError, listing those that exist, for any other."""
    if name not in recipes:
        stage = stage_of(name)
        problem = f"there is no recipe '{name}'.{did_you_mean(name, recipes)}"
        if stage:
            problem = f"'{name}' is a {stage} recipe, for `phenaki train {stage}`."
        raise PhenakiError(f"{problem} Recipes: {', '.join(sorted(recipes))}.")
    return recipes[name]()
