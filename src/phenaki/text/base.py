"""The contract of a text encoder: prompts to embeddings with a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Text(NamedTuple):
    """Embeddings float (B, L, D) and their mask bool (B, L), True where there is text."""

    embeddings: Tensor
    mask: Tensor

    def repeat(self, times: int) -> Text:
        """The batch repeated as a whole: (times * B, L, D)."""
        return Text(self.embeddings.repeat(times, 1, 1), self.mask.repeat(times, 1))


class TextEncoder(nn.Module, ABC):
    """Subclasses set `config` and `width` (D). `tokenize` is plain Python and may run in a data worker; `forward` is
    the network. `check` refuses, in a sentence, a prompt that the encoder cannot read."""

    width: int

    @abstractmethod
    def check(self, prompt: str) -> None:
        """Raise PhenakiError for a prompt that is empty, too long, or in letters the encoder never learned."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> integer tensor (B, L, ...), padded with 0."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Text:
        """What `tokenize` gave -> embeddings and mask."""

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts, each checked, -> embeddings (B, L, D) and mask (B, L) on the encoder's device."""
        for prompt in prompts:
            self.check(prompt)
        device = next(self.parameters()).device
        return self(self.tokenize(prompts).to(device))
