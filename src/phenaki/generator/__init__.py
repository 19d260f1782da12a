"""Stage 2: ids from text."""

from phenaki.generator.base import Generator
from phenaki.generator.masked import (
    MaskedTransformer,
    MaskedTransformerConfig,
    MaskedTransformerSizes,
)

REGISTRY = {"masked": (MaskedTransformerConfig, MaskedTransformer)}

__all__ = ["REGISTRY", "Generator", "MaskedTransformer", "MaskedTransformerConfig", "MaskedTransformerSizes"]
