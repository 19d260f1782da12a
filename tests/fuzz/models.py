"""A tiny random model, quick to load and to run."""

from __future__ import annotations

from functools import cache

import torch

from phenaki import Phenaki
from phenaki.conditioning import WordEncoder, WordEncoderConfig
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.sampling import DecodingConfig, SamplingConfig
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig


@cache
def tiny_model() -> Phenaki:
    """16 x 16 pixels, clips of 5 frames in 3 latent frames of 2 x 2 ids."""
    torch.manual_seed(0)
    layers = {"spatial_layers": 1, "temporal_layers": 1, "mlp_ratio": 1}
    tokenizer = CViViT(CViViTConfig(image_size=(16, 16), width=64, quantizer=QuantizerConfig(levels=(5, 5)), **layers))
    text_encoder = WordEncoder(WordEncoderConfig(width=64, layers=1))
    sizes = MaskedTransformerSizes(frames=5, width=64, layers=1, mlp_ratio=1)
    generator = MaskedTransformer(sizes.config(tokenizer.spec, text_encoder.width))
    sampling = SamplingConfig(DecodingConfig(steps=2))
    return Phenaki(Components(generator, tokenizer, text_encoder), sampling)
