"""No text: for generators of a video data set that has no captions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.errors import PhenakiWarning


@dataclass(frozen=True)
class NoTextConfig:
    width: ClassVar[int] = 1  # a generator attends to its null embedding alone

    def check(self, prompt: str) -> None:
        """Whatever is said, it is not read."""


class NoText(TextEncoder):
    """Every prompt -> embeddings (B, 0, 1): nothing."""

    learned = False

    def __init__(self, config: NoTextConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.register_buffer("nothing", torch.zeros(0, config.width), persistent=False)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 0, dtype=torch.long)

    def forward(self, tokens: Tensor) -> Text:
        return Text(self.nothing.expand(len(tokens), 0, self.width), tokens.bool())

    def encode(self, prompts: Sequence[str]) -> Text:
        if unread := next(filter(None, prompts), None):
            warnings.warn(f"this model was trained without text: {unread!r} is not read", PhenakiWarning, stacklevel=2)
        return super().encode(prompts)
