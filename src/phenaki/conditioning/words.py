"""A text encoder over bytes, small enough to be trained with the generator and to ship.

Bytes are grouped to words before the transformer sees them: a caption of 120 bytes is a sequence of 20 words, and a
word is one vector from the first step on. There is no vocabulary, so any word, typo and script has an embedding.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.errors import PhenakiError
from phenaki.nn.attention import HEAD_DIM
from phenaki.nn.positions import rotary_table
from phenaki.nn.transformer import FeedForward, TransformerBlock, initialize, width_error

WORD_BYTES = 16  # longer words are cut into pieces of so many bytes


@dataclass(frozen=True)
class WordEncoderConfig:
    """`alphabet`: the letters that training showed; prompts in others are refused rather than misread."""

    width: int = 192
    layers: int = 2
    max_words: int = 64
    alphabet: str = "latin"

    def __post_init__(self) -> None:
        if error := width_error(self.width):
            raise PhenakiError(error)
        if self.max_words < 1:
            raise PhenakiError(f"max_words {self.max_words} must be 1 or more")

    def check(self, prompt: str) -> None:
        """Raise PhenakiError for a prompt that is empty, too long, or in letters that training never showed."""
        words = split_words(prompt)
        if not words:
            raise PhenakiError("the prompt is empty: say what the video shows, for example 'a red circle moves right'")
        if len(words) > self.max_words:
            raise PhenakiError(
                f"the prompt has {len(words):,} words and this model reads at most {self.max_words}: "
                "shorten it, or give its scenes as several prompts"
            )
        strange = sorted({c for c in prompt if c.isalpha() and self.alphabet not in unicodedata.name(c, "").lower()})
        if strange and self.alphabet:
            raise PhenakiError(
                f"the prompt has letters that this model does not read ({' '.join(strange[:8])}): "
                f"it reads {self.alphabet} letters only"
            )


def split_words(prompt: str) -> list[bytes]:
    """Lower-cased words and punctuation marks as UTF-8, words of more than WORD_BYTES bytes in pieces."""
    words = [word.encode() for word in re.findall(r"\w+|[^\w\s]", prompt.lower())]
    return [word[i : i + WORD_BYTES] for word in words for i in range(0, len(word), WORD_BYTES)]


class WordEncoder(TextEncoder):
    """A word is the sum of its bytes, each multiplied with its place's vector, through a small network."""

    def __init__(self, config: WordEncoderConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.bytes = nn.Embedding(257, config.width, padding_idx=0)
        self.places = nn.Parameter(torch.randn(WORD_BYTES, config.width))
        self.word = FeedForward(config.width)
        self.layers = nn.ModuleList(TransformerBlock(config.width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        initialize(self, depth=config.layers + 1)
        nn.init.normal_(self.bytes.weight)
        nn.init.normal_(self.places)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> uint8-valued int64 (B, L, WORD_BYTES): bytes + 1, 0 where there is none."""
        split = [split_words(prompt)[: self.config.max_words] for prompt in prompts]
        tokens = torch.zeros(len(split), max(1, max(map(len, split))), WORD_BYTES, dtype=torch.long)
        for row, words in zip(tokens, split, strict=True):
            for place, word in zip(row, words, strict=False):
                place[: len(word)] = torch.frombuffer(bytearray(word), dtype=torch.uint8).long() + 1
        return tokens

    def forward(self, tokens: Tensor) -> Text:
        mask = tokens.ne(0).any(-1)
        x = (self.bytes(tokens) * self.places).sum(-2)
        x = x + self.word(x)
        rotary = rotary_table((tokens.shape[1],), HEAD_DIM, tokens.device)
        for layer in self.layers:
            x = layer(x, rotary, mask)
        return Text(self.norm(x), mask)
