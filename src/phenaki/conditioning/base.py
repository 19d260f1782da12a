"""The contract of a text encoder: prompts to embeddings with a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Text(NamedTuple):
    """Embeddings float (B, L, D) and their mask bool (B, L), True where there is text."""

    embeddings: Tensor
    mask: Tensor

    def repeat(self, times: int) -> Text:
        """The batch repeated as a whole: (times * B, L, D)."""
        return Text(self.embeddings.repeat(times, 1, 1), self.mask.repeat(times, 1))


class TextEncoder(nn.Module, ABC):
    """Subclasses set `config`, which has their `width` (D) and `check`, and `width`. `tokenize` is plain Python and may
    run in a data worker; `forward` is the network.

    `learned`: whether a training of a generator trains it too; else it is taken as it is.
    """

    learned: ClassVar[bool] = True
    config: Any
    width: int

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device

    def check(self, prompt: str) -> None:
        """Raise PhenakiError for a prompt that the encoder cannot read. It is the configuration that decides, so that
        data workers can check captions without the network."""
        self.config.check(prompt)

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
        return self(self.tokenize(prompts).to(self.device))
