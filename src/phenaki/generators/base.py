"""The contract of a generator (second stage): masked ids and text to logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.tokenizers.base import Tokenizer

Context = list[tuple[Tensor, Tensor]]
"""Keys and values of a text for each layer: computed once for all steps of a decoding."""


class Generator(nn.Module, ABC):
    """ids int64 (B, t, h, w), `mask_id` where unknown, and text -> logits (B, t, h, w, V).

    Subclasses set `config`, with the `tokenizer` (TokenizerSpec) whose ids they write, `text_width`, and `frames` of
    the longest clip, and `head`, and define `drop`, `context` and `features`.
    """

    config: Any
    head: nn.Module

    @property
    def vocab_size(self) -> int:
        return self.config.tokenizer.vocab_size

    @property
    def mask_id(self) -> int:
        return self.vocab_size

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise PhenakiError, naming each difference, unless this generator was built for such a tokenizer."""
        wanted, given = asdict(self.config.tokenizer), asdict(tokenizer.spec)
        differences = [f"{name} {wanted[name]}, not {given[name]}" for name in wanted if wanted[name] != given[name]]
        if differences:
            raise PhenakiError(
                f"this generator was built for a tokenizer with {'; '.join(differences)}: "
                "use the tokenizer it was trained with"
            )

    @abstractmethod
    def drop(self, text: Text, dropped: Tensor) -> Text:
        """The text as `context` and `features` take it, hidden where `dropped` (bool (B,))."""

    @abstractmethod
    def context(self, text: Text) -> Context:
        """Keys and values (B, H, L, K) of a text for each layer."""

    @abstractmethod
    def features(self, ids: Tensor, context: Context, text_mask: Tensor) -> Tensor:
        """ids (B, t, h, w) -> features (B, t, h, w, D), of which `head` makes logits."""

    def forward(self, ids: Tensor, text: Text) -> Tensor:
        """Logits (B, t, h, w, V) of every position; `text` as `drop` returns it."""
        return self.head(self.features(ids, self.context(text), text.mask))
