"""Text embeddings that the caller computed."""

from __future__ import annotations

import torch
from torch import Tensor

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError


def checked_text(text: Text) -> Text:
    """The text as float32, with zeros where it is masked (0 times a hidden NaN would be NaN).

    Raises PhenakiError unless the embeddings are float (B, L, D), finite where the mask, bool (B, L), is True.
    """
    embeddings, mask = text.embeddings, text.mask
    if embeddings.ndim != 3 or not embeddings.is_floating_point() or not len(embeddings):
        raise PhenakiError(f"text embeddings are float (B, L, D), not {_describe(embeddings)}")
    if mask.dtype != torch.bool or mask.shape != embeddings.shape[:2]:
        expected = tuple(embeddings.shape[:2])
        raise PhenakiError(f"the mask of these text embeddings is bool {expected}, not {_describe(mask)}")
    if not bool(embeddings[mask].isfinite().all()):
        raise PhenakiError("the text embeddings are not finite: encode the text again, with a wider dtype")
    return text._replace(embeddings=embeddings.detach().float().masked_fill(~mask[..., None], 0))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
