"""Tiny random models, made once."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not slow the busy ones

import pytest
import torch

from phenaki.generator import MaskedTransformer, MaskedTransformerSizes
from phenaki.text import WordEncoder, WordEncoderConfig
from phenaki.tokenizer import CViViT, CViViTConfig, QuantizerConfig


@pytest.fixture
def tokenizer() -> CViViT:
    torch.manual_seed(0)
    config = CViViTConfig(
        image_size=(32, 32), width=64, spatial_layers=1, temporal_layers=1, quantizer=QuantizerConfig(levels=(5, 5, 5))
    )
    return CViViT(config).eval()


@pytest.fixture
def text_encoder() -> WordEncoder:
    torch.manual_seed(1)
    return WordEncoder(WordEncoderConfig(width=64, layers=1)).eval()


@pytest.fixture
def generator(tokenizer: CViViT, text_encoder: WordEncoder) -> MaskedTransformer:
    torch.manual_seed(2)
    sizes = MaskedTransformerSizes(frames=11, width=64, layers=2)
    return MaskedTransformer(sizes.config(tokenizer.facts, text_encoder.width)).eval()
