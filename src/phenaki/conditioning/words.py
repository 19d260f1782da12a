"""A text encoder over bytes, small enough to train with the generator and to ship.

Bytes are pooled into words before the transformer, so a caption of 120 bytes is a sequence of about 20 vectors. There
is no vocabulary: any word, typo or script has an embedding.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phenaki.conditioning.base import Text, TextEncoder, check_text
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.nn.attention import HEAD_DIM
from phenaki.nn.norm import LayerNorm
from phenaki.nn.positions import rotary_table
from phenaki.nn.transformer import FeedForward, TransformerBlock, initialize, width_error

WORD_BYTES = 16  # longer words are split


@configclass
class WordEncoderConfig:
    """alphabet: of the training captions; prompts in another one are rejected. Empty: any."""

    width: int = 192
    layers: int = 2
    max_words: int = bounded(64, at_least=1)
    alphabet: str = "latin"

    def __post_init__(self) -> None:
        if error := width_error(self.width):
            raise PhenakiError(error)

    def check(self, prompt: str) -> None:
        """Raise PhenakiError for a prompt that is empty, too long, or in another alphabet."""
        check_text(prompt)
        words = split_words(prompt)
        if not words:
            raise PhenakiError("the prompt is empty: describe the video, for example 'a red circle moves right'")
        if len(words) > self.max_words:
            raise PhenakiError(
                f"the prompt has {len(words):,} words and this model reads at most {self.max_words}: "
                "shorten it, or pass its scenes as several prompts"
            )
        strange = sorted({c for c in prompt if c.isalpha() and self.alphabet not in unicodedata.name(c, "").lower()})
        if strange and self.alphabet:
            raise PhenakiError(
                f"the prompt has letters that this model cannot read ({' '.join(strange[:8])}): "
                f"use {self.alphabet} letters only"
            )


def split_words(prompt: str) -> list[bytes]:
    """Lower-cased words and punctuation marks as UTF-8, split every WORD_BYTES bytes."""
    words = [word.encode() for word in re.findall(r"\w+|[^\w\s]", prompt.lower())]
    return [word[i : i + WORD_BYTES] for word in words for i in range(0, len(word), WORD_BYTES)]


class WordEncoder(TextEncoder):
    """A word is the sum of its byte embeddings, each multiplied by a vector for its position, through an MLP."""

    def __init__(self, config: WordEncoderConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.bytes = nn.Embedding(257, config.width, padding_idx=0)
        self.register_parameter("places", nn.Parameter(torch.randn(WORD_BYTES, config.width)))  # of bytes in a word
        self.word = FeedForward(config.width)
        self.layers = nn.ModuleList(TransformerBlock(config.width) for _ in range(config.layers))
        self.norm = LayerNorm(config.width)
        initialize(self, depth=config.layers + 1)
        nn.init.normal_(self.bytes.weight)
        nn.init.normal_(self.places)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> int64 (B, L, WORD_BYTES): bytes + 1, padded with 0."""
        split = [split_words(prompt)[: self.config.max_words] for prompt in prompts]
        tokens = torch.zeros(len(split), max(1, max(map(len, split))), WORD_BYTES, dtype=torch.long)
        for row, words in zip(tokens, split, strict=True):
            for padded, word in zip(row, words, strict=False):
                padded[: len(word)] = torch.frombuffer(bytearray(word), dtype=torch.uint8).long() + 1
        return tokens

    def forward(self, tokens: Tensor) -> Text:
        mask = tokens.ne(0).any(-1)
        x = (self.bytes(tokens) * self.places).sum(-2)
        x = x + self.word(x)
        rotary = rotary_table((tokens.shape[1],), HEAD_DIM, tokens.device)
        for layer in self.layers:
            x = layer(x, rotary, mask)
        return Text(self.norm(x), mask)
