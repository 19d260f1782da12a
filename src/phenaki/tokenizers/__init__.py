"""The first stage: video to a small grid of discrete ids and back."""

from phenaki.core.registry import TOKENIZERS
from phenaki.tokenizers.base import Reconstruction, Tokenizer
from phenaki.tokenizers.conv3d import Conv3D, Conv3DConfig
from phenaki.tokenizers.cvivit import CViViT, CViViTConfig
from phenaki.tokenizers.quantizers import QuantizerConfig, code_usage
from phenaki.tokenizers.spec import Grid, TokenizerSpec
from phenaki.tokenizers.tiling import Tiled

TOKENIZERS.register("cvivit", CViViTConfig, CViViT)
TOKENIZERS.register("conv3d", Conv3DConfig, Conv3D)

TokenizerConfig = CViViTConfig | Conv3DConfig


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """A randomly initialised tokenizer of the configured architecture."""
    return TOKENIZERS.model_class(config)(config)
