"""Stage 2: ids from text."""

from phenaki.generator.masked import (
    MaskedTransformer,
    MaskedTransformerConfig,
    MaskedTransformerSizes,
)

REGISTRY = {"masked": (MaskedTransformerConfig, MaskedTransformer)}

__all__ = ["REGISTRY", "MaskedTransformer", "MaskedTransformerConfig", "MaskedTransformerSizes"]
