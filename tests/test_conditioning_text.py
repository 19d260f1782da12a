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
    first, second = text(2), text(3)
    timed = Text.timed([first, second], [0, 4])
    assert torch.equal(timed.embeddings, torch.cat((first.embeddings, second.embeddings), dim=1))
    assert torch.equal(timed.mask, torch.cat((first.mask, second.mask), dim=1))
    assert timed.frames.shape == (2, 5, 2) and timed.frames.dtype == torch.long
    for latent_frame, seen in ((0, [0, 1]), (3, [0, 1]), (4, [2, 3, 4]), (1000, [2, 3, 4])):
        begin, end = timed.frames[0].unbind(-1)
        assert ((begin <= latent_frame) & (latent_frame < end)).nonzero().flatten().tolist() == seen


@pytest.mark.parametrize("starts", [[], [0], [1, 4], [0, 0], [0, 4, 2]])
def test_other_starts_are_refused(starts: Sequence[int]) -> None:
    with pytest.raises(PhenakiError, match="0 first, in increasing order"):
        Text.timed([text(2)] * (3 if len(starts) == 3 else 2), starts)


def test_a_repeated_text_repeats_the_batch() -> None:
    timed = Text.timed([text(2), text(3)], [0, 4])
    for part, repeated in zip(timed, timed.repeat(3), strict=True):
        assert torch.equal(repeated, torch.cat([part] * 3))
    assert text(2).repeat(3).frames is None
