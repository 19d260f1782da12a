"""Embeddings that the caller computed, behind the contract of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.errors import PhenakiError


class GivenText(TextEncoder):
    """Embeddings float (B, L, D) with their mask bool (B, L), one of `prompts` standing for each of the B.

    Raises PhenakiError for tensors of other shapes or types and for embeddings that are not finite.
    """

    learned = False

    def __init__(self, text: Text):
        super().__init__()
        embeddings, mask = text[:2]
        if embeddings.ndim != 3 or not embeddings.is_floating_point() or not len(embeddings):
            raise PhenakiError(f"text embeddings are float (B, L, D), not {_described(embeddings)}")
        if mask.dtype != torch.bool or mask.shape != embeddings.shape[:2]:
            wanted = tuple(embeddings.shape[:2])
            raise PhenakiError(f"the mask of these text embeddings is bool {wanted}, not {_described(mask)}")
        if not bool(embeddings[mask].isfinite().all()):
            raise PhenakiError("the text embeddings are not finite: encode the text again, with a wider dtype")
        self.width = embeddings.shape[2]
        self.prompts = tuple(f"text embeddings {number}" for number in range(1, len(embeddings) + 1))
        shown = embeddings.detach().float().masked_fill(~mask[..., None], 0)  # 0 times a hidden NaN would be seen
        self.register_buffer("embeddings", shown, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def check(self, prompt: str) -> None:
        if prompt not in self.prompts:
            raise PhenakiError(f"{prompt!r} has no embeddings here: there are {', '.join(self.prompts)}")

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> their number int64 (B, 1), from 1."""
        return torch.tensor([[1 + self.prompts.index(prompt)] for prompt in prompts])

    def forward(self, tokens: Tensor) -> Text:
        rows = tokens.squeeze(1) - 1
        return Text(self.embeddings[rows], self.mask[rows])


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
