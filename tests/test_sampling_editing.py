"""Edits: what is known stays bit-equal, what is hidden does not matter, and what does not fit is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import MaskedTransformer
from phenaki.sampling import SamplingConfig, inpaint, interpolate
from phenaki.sampling.editing import pixels, tokens
from phenaki.tokenizers import CViViT

FAST = SamplingConfig(steps=2, prime_frames=3)
Parts = tuple[CViViT, MaskedTransformer, WordEncoder]
Decoded = list[tuple[Tensor, Tensor, Tensor]]


@pytest.fixture
def parts(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Parts:
    return tokenizer, generator, text_encoder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """Ids, which of them are known, and the ids that came of them, of each decoding."""
    module, found = sys.modules["phenaki.sampling.editing"], []
    plain = module.decode

    def spy(logits_fn, ids: Tensor, known: Tensor, *rest) -> Tensor:
        result = plain(logits_fn, ids, known, *rest)
        found.append((ids, known, result))
        return result

    monkeypatch.setattr(module, "decode", spy)
    return found


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- between two


def test_the_ends_are_known_and_the_middle_is_new(parts: Parts, decoded: Decoded) -> None:
    first, last = noise(1, 3, 1, 32, 32), noise(1, 3, 1, 32, 32, seed=1)
    new = interpolate(*parts, first, last, "a", 11, FAST, rng(), samples=2)
    assert new.shape == (2, 3, 9, 32, 32)
    (ids, known, result), *others = decoded
    assert not others
    assert known.all((2, 3)).tolist() == [[True, False, False, False, False, True]] * 2
    assert not known[:, 1:-1].any()
    assert torch.equal(result[known], ids[known])
    assert torch.equal(ids[:1, :1], parts[0].encode(first))


def test_clips_lend_as_many_time_steps_as_the_story_would_keep(parts: Parts, decoded: Decoded) -> None:
    first, last = noise(1, 3, 7, 32, 32), noise(1, 3, 9, 32, 32, seed=1)
    config = SamplingConfig(steps=2, prime_frames=5)
    new = interpolate(*parts, first, last, "a", 11, config, rng())
    assert decoded[0][1].all((2, 3))[0].tolist() == [True, True, True, False, True, True]
    assert new.shape[2] == 11 - 5 - 4
    assert torch.equal(decoded[0][0][:, :3], parts[0].encode(first[:, :, -5:]))


def test_a_still_end_is_what_the_last_known_ids_show(parts: Parts, decoded: Decoded) -> None:
    """The last time step's ids were taken where its pixels are those of the end."""
    last = noise(1, 3, 1, 32, 32, seed=1)
    interpolate(*parts, last, last, "a", 5, FAST, rng())
    assert torch.equal(decoded[0][0][:, -1:], parts[0].encode(last.expand(-1, -1, 5, -1, -1))[:, -1:])


@pytest.mark.parametrize(("frames", "keep"), [(3, 1), (13, 1), (5, 3), (11, 9)])
def test_ends_that_leave_no_room_are_refused(parts: Parts, frames: int, keep: int) -> None:
    clip = noise(1, 3, 9, 32, 32)
    with pytest.raises(PhenakiError, match=f"{frames} frames, of which .* at most 11"):
        interpolate(*parts, clip, clip, "a", frames, SamplingConfig(steps=1, prime_frames=keep), rng())


# ---- holes


def hole_at(frames: int, top: int = 8, bottom: int = 16) -> Tensor:
    hole = torch.zeros(1, 1, frames, 32, 32, dtype=torch.bool)
    hole[..., top:bottom, 8:24] = True
    return hole


@pytest.mark.parametrize("alone", [False, True])
def test_what_is_kept_stays_bit_equal_in_ids(parts: Parts, decoded: Decoded, alone: bool) -> None:
    video, hole = noise(2, 3, 11, 32, 32), hole_at(1)
    config = SamplingConfig(steps=2, prime_frames=1, first_frame_alone=alone)
    made = torch.cat(list(inpaint(*parts, video, hole, "a", config, rng())), 2)
    _, known, ids = decoded[-1]
    mean = torch.where(hole, torch.nan, video).flatten(3).nanmean(3)[..., None, None]
    kept = ~tokens(hole.expand(2, 1, 11, 32, 32), parts[0].patch)
    assert ids.shape == kept.shape and kept.float().mean() == 1 - 2 / 16
    assert torch.equal(ids[kept], parts[0].encode(torch.where(hole, mean, video))[kept])
    assert torch.allclose(made, parts[0].decode(ids), atol=1e-4)


def test_what_lies_in_the_hole_does_not_matter(parts: Parts) -> None:
    hole = hole_at(11, bottom=17)
    one = noise(1, 3, 11, 32, 32)
    other = torch.where(hole, noise(1, 3, 11, 32, 32, seed=1), one)
    made = [torch.cat(list(inpaint(*parts, video, hole, "a", FAST, rng(), blend=True)), 2) for video in (one, other)]
    outside = ~pixels(tokens(hole, parts[0].patch), parts[0].patch).expand_as(one)
    assert torch.equal(*made)
    assert torch.equal(made[0][outside], one[outside])


def test_a_blend_gives_pixels_back_also_in_longer_clips(parts: Parts, decoded: Decoded) -> None:
    video, hole = noise(1, 3, 19, 32, 32), hole_at(1)
    plain = torch.cat(list(inpaint(*parts, video, hole, "a", FAST, rng())), 2)
    blended = torch.cat(list(inpaint(*parts, video, hole, "a", FAST, rng(), blend=True)), 2)
    assert plain.shape == blended.shape == video.shape
    inside = hole.expand_as(video)
    assert torch.equal(blended[~inside], video[~inside])
    assert not torch.equal(plain[~inside], video[~inside])
    assert not torch.equal(blended[inside], video[inside])
    for ids, known, result in decoded:
        assert torch.equal(result[known], ids[known])


def test_a_hole_may_move(parts: Parts, decoded: Decoded) -> None:
    hole = torch.zeros(1, 1, 5, 32, 32, dtype=torch.bool)
    hole[:, :, 2, :8, :8] = True  # the second frame of three: in time step 1, with the one before it
    list(inpaint(*parts, noise(1, 3, 5, 32, 32), hole, "a", FAST, rng()))
    assert (~decoded[0][1]).nonzero().tolist() == [[0, 1, 0, 0]]


def test_tokens_and_their_pixels() -> None:
    where = torch.rand(2, 3, 4, 5, generator=rng()) < 0.3
    shown = pixels(where, (2, 8, 8))
    assert shown.shape == (2, 1, 5, 32, 40)
    assert torch.equal(tokens(shown, (2, 8, 8)), where)
    one = torch.zeros(1, 1, 5, 16, 16, dtype=torch.bool)
    one[0, 0, 4, 15, 15] = True
    assert tokens(one, (2, 8, 8)).nonzero().tolist() == [[0, 2, 1, 1]]
