"""Stage 2: ids from text."""

from phenaki.core.registry import GENERATORS
from phenaki.generators.base import Generator
from phenaki.generators.masked import (
    MaskedTransformer,
    MaskedTransformerConfig,
    MaskedTransformerSizes,
)

GENERATORS.register("masked", MaskedTransformerConfig, MaskedTransformer)

__all__ = ["Generator", "MaskedTransformer", "MaskedTransformerConfig", "MaskedTransformerSizes"]
