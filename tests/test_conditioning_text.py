"""`Text`: captions in time, repeated batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from phenaki.conditioning import Text
from phenaki.core.errors import PhenakiError


def text(length: int, samples: int = 2) -> Text:
    mask = torch.arange(length) < torch.arange(1, samples + 1)[:, None]
    return Text(torch.randn(samples, length, 3), mask)


def test_a_timed_caption_ends_where_the_next_one_starts() -> None:
    captions = text(3, samples=3)
    timed = Text.timed(captions, [[0, 4], [0]])  # the third caption is that of the second sample
    assert timed.embeddings.shape == (2, 6, 3) and timed.frames.shape == (2, 6, 2) and timed.frames.dtype == torch.long
    assert torch.equal(timed.embeddings[0], captions.embeddings[:2].flatten(0, 1))
    assert torch.equal(timed.embeddings[1, :3], captions.embeddings[2]) and not timed.mask[1, 3:].any()
    assert torch.equal(timed.mask[0], captions.mask[:2].flatten())
    for sample, latent_frame, seen in (
        (0, 0, [0, 1, 2]),
        (0, 3, [0, 1, 2]),
        (0, 4, [3, 4, 5]),
        (0, 1000, [3, 4, 5]),
        (1, 1000, [0, 1, 2]),
    ):
        begin, end = timed.frames[sample].unbind(-1)
        assert ((begin <= latent_frame) & (latent_frame < end)).nonzero().flatten().tolist() == seen


@pytest.mark.parametrize("starts", [[], [1, 4], [0, 0], [0, 4, 2]])
def test_other_starts_are_refused(starts: Sequence[int]) -> None:
    with pytest.raises(PhenakiError, match="0 comes first, and each starts after the last"):
        Text.timed(text(2, samples=len(starts)), [starts])
    with pytest.raises(PhenakiError, match="2 captions with 3 starts"):
        Text.timed(text(2, samples=2), [[0, 1, 2]])


def test_a_repeated_text_repeats_the_batch() -> None:
    timed = Text.timed(text(2, samples=4), [[0, 4], [0, 2]])
    for part, repeated in zip(timed, timed.repeat(3), strict=True):
        assert torch.equal(repeated, torch.cat([part] * 3))
    assert text(2).repeat(3).frames is None
