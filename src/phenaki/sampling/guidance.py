"""Classifier-free guidance (2207.12598) for a generator: the branches with and without text in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.precision import autocast
from phenaki.generators.base import Generator
from phenaki.sampling.decoding import LogitsFn, SamplingConfig


def guided(generator: Generator, text: Text, scale: float, negative: Text | None = None) -> LogitsFn:
    """A `logits_fn` for `decode`: null + scale * (text - null).

    `scale` 1 is the text alone, in one branch; 0 ignores it. `negative`: a text of B prompts to lead away from, which
    takes the place of the null branch; its length may differ from that of `text`.
    """
    return guided_by_step(generator, text, [scale], negative)[0]


@torch.no_grad()
def steered(generator: Generator, text_encoder: TextEncoder, text: Text, config: SamplingConfig) -> list[LogitsFn]:
    """A `guided` for each step of a decoding, by the guidance and the negative prompt of its configuration."""
    negative = None
    if config.negative is not None:
        with autocast(text.embeddings.device):
            negative = text_encoder.encode([config.negative] * len(text.mask))
    return guided_by_step(generator, text, config.scales, negative)


@torch.no_grad()
def guided_by_step(
    generator: Generator, text: Text, scales: Sequence[float], negative: Text | None = None
) -> list[LogitsFn]:
    """A `guided` for each of several scales; the text's keys and values are computed once for all. At scale 1 there is
    one branch, at half the cost."""
    batch, device = len(text.mask), text.embeddings.device
    most = 1 if all(scale == 1 for scale in scales) else 2
    dropped = torch.arange(most, device=device).repeat_interleave(batch).bool()
    if negative is None or most == 1:
        text = text.repeat(most)
    else:
        text, dropped = _one_batch(text, negative), torch.zeros_like(dropped)
    with autocast(device):
        text = generator.drop(text, dropped)
        context = generator.context(text)
    alone = [(keys[:batch], values[:batch]) for keys, values in context]

    def logits_fn(scale: float, ids: Tensor, where: Tensor) -> Tensor:
        branches, read, mask = (1, alone, text.mask[:batch]) if scale == 1 else (2, context, text.mask)
        with autocast(device):
            features = generator.features(ids.repeat(branches, 1, 1, 1), read, mask)
            logits = generator.head(features[where.repeat(branches, 1, 1, 1)]).float()
        if branches == 1:
            return logits
        with_text, without = logits.chunk(2)
        return (with_text - without).mul_(scale).add_(without)

    return [partial(logits_fn, scale) for scale in scales]


def _one_batch(*texts: Text) -> Text:
    """Texts of several lengths, one after the other in the batch, padded to the longest."""
    longest = max(text.mask.shape[1] for text in texts)
    short = [longest - text.mask.shape[1] for text in texts]
    embeddings = [F.pad(text.embeddings, (0, 0, 0, rest)) for text, rest in zip(texts, short, strict=True)]
    masks = [F.pad(text.mask, (0, rest)) for text, rest in zip(texts, short, strict=True)]
    return Text(torch.cat(embeddings), torch.cat(masks))
