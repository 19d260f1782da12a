"""Stage 1: video to a small grid of discrete ids, and back."""

from phenaki.tokenizer.base import Grid, Reconstruction, Tokenizer, TokenizerFacts
from phenaki.tokenizer.cvivit import CViViT, CViViTConfig
from phenaki.tokenizer.quantize import QuantizerConfig, code_usage

REGISTRY = {"cvivit": (CViViTConfig, CViViT)}

__all__ = [
    "REGISTRY",
    "CViViT",
    "CViViTConfig",
    "Grid",
    "QuantizerConfig",
    "Reconstruction",
    "Tokenizer",
    "TokenizerFacts",
    "code_usage",
]
