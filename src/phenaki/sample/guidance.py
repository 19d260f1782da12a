"""Classifier-free guidance (2207.12598) for a generator: the branches with and without text in one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from phenaki.generator.masked import MaskedTransformer
from phenaki.precision import autocast
from phenaki.sample.decode import LogitsFn
from phenaki.text.base import Text


@torch.no_grad()
def guided(generator: MaskedTransformer, text: Text, scale: float) -> LogitsFn:
    """A `logits_fn` for `decode`: null + scale * (text - null). The text's keys and values are computed once.

    `scale` 1 is the text alone, in one branch; 0 ignores it.
    """
    batch = text.embeddings.shape[0]
    branches = 1 if scale == 1 else 2
    dropped = torch.arange(branches, device=text.mask.device).repeat_interleave(batch).bool()
    device = text.embeddings.device
    with autocast(device):
        text = generator.drop(text.repeat(branches), dropped)
        context = generator.context(text)

    def logits_fn(ids: Tensor, where: Tensor) -> Tensor:
        with autocast(device):
            features = generator.features(ids.repeat(branches, 1, 1, 1), context, text.mask)
            logits = generator.head(features[where.repeat(branches, 1, 1, 1)]).float()
        if branches == 1:
            return logits
        with_text, without = logits.chunk(2)
        return without + scale * (with_text - without)

    return logits_fn
