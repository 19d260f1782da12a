"""No text: for generators trained on videos without captions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from phenaki.conditioning.base import Text, TextEncoder, check_text
from phenaki.core.errors import PhenakiWarning


@dataclass(frozen=True)
class NoTextConfig:
    width: ClassVar[int] = 1  # generators attend to their null embedding only

    def check(self, prompt: str) -> None:
        """Any text is valid, and ignored."""
        check_text(prompt)


class NoText(TextEncoder):
    """Any prompt -> empty embeddings (B, 0, 1)."""

    learned = False

    def __init__(self, config: NoTextConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.register_buffer("empty", torch.zeros(0, config.width), persistent=False)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 0, dtype=torch.long)

    def forward(self, tokens: Tensor) -> Text:
        return Text(self.empty.expand(len(tokens), 0, self.width), tokens.bool())

    def encode(self, prompts: Sequence[str]) -> Text:
        if ignored := next(filter(None, prompts), None):
            warnings.warn(f"this model was trained without text: {ignored!r} is ignored", PhenakiWarning, stacklevel=2)
        return super().encode(prompts)
