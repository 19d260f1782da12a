"""Stage 2: ids from text."""

from phenaki.generators.base import Generator
from phenaki.generators.masked import (
    MaskedTransformer,
    MaskedTransformerConfig,
    MaskedTransformerSizes,
)

REGISTRY = {"masked": (MaskedTransformerConfig, MaskedTransformer)}

__all__ = ["REGISTRY", "Generator", "MaskedTransformer", "MaskedTransformerConfig", "MaskedTransformerSizes"]
