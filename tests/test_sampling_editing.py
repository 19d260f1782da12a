"""Editing: known ids stay bit-equal, pixels in the hole do not matter, and what does not fit is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from helpers.sampling import sampling_config
from phenaki.conditioning import Text, WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer
from phenaki.sampling import inpaint, interpolate
from phenaki.sampling.editing import pixels_to_tokens, tokens_to_pixels
from phenaki.tokenizers import CViViT

FAST = sampling_config(steps=2, prime_frames=3)
Decoded = list[tuple[Tensor, Tensor, Tensor]]


@pytest.fixture
def components(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Components:
    return Components(generator, tokenizer, text_encoder)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """The ids, which of them are known, and the complete ids, of each decoding."""
    module, found = sys.modules["phenaki.sampling.editing"], []
    plain = module.sample_ids

    def spy(components: Components, text: Text, ids: Tensor, known: Tensor, *rest) -> Tensor:
        result = plain(components, text, ids, known, *rest)
        found.append((ids, known, result))
        return result

    monkeypatch.setattr(module, "sample_ids", spy)
    return found


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- interpolation


def test_the_ends_are_known_and_the_middle_is_new(components: Components, decoded: Decoded) -> None:
    first, last = noise(1, 3, 1, 32, 32), noise(1, 3, 1, 32, 32, seed=1)
    new = interpolate(components, first, last, "a", 11, FAST, rng(), samples=2)
    assert new.shape == (2, 3, 9, 32, 32)
    (ids, known, result), *others = decoded
    assert not others
    assert known.all((2, 3)).tolist() == [[True, False, False, False, False, True]] * 2
    assert not known[:, 1:-1].any()
    assert torch.equal(result[known], ids[known])
    assert torch.equal(ids[:1, :1], components.tokenizer.encode(first))


def test_as_many_latent_frames_of_clips_are_known_as_a_rollout_keeps(components: Components, decoded: Decoded) -> None:
    first, last = noise(1, 3, 7, 32, 32), noise(1, 3, 9, 32, 32, seed=1)
    config = sampling_config(steps=2, prime_frames=5)
    new = interpolate(components, first, last, "a", 11, config, rng())
    assert decoded[0][1].all((2, 3))[0].tolist() == [True, True, True, False, True, True]
    assert new.shape[2] == 11 - 5 - 4
    assert torch.equal(decoded[0][0][:, :3], components.tokenizer.encode(first[:, :, -5:]))


def test_the_last_ids_are_those_of_a_still_end(components: Components, decoded: Decoded) -> None:
    """All pixels of the last latent frame are those of the end when it is encoded."""
    last = noise(1, 3, 1, 32, 32, seed=1)
    interpolate(components, last, last, "a", 5, FAST, rng())
    assert torch.equal(decoded[0][0][:, -1:], components.tokenizer.encode(last.expand(-1, -1, 5, -1, -1))[:, -1:])


@pytest.mark.parametrize(("frames", "prime_frames"), [(3, 1), (13, 1), (5, 3), (11, 9)])
def test_ends_that_leave_no_frame_to_generate_are_refused(
    components: Components, frames: int, prime_frames: int
) -> None:
    clip = noise(1, 3, 9, 32, 32)
    with pytest.raises(PhenakiError, match=f"{frames} frames, .* of them known: .* at most 11"):
        interpolate(components, clip, clip, "a", frames, sampling_config(steps=1, prime_frames=prime_frames), rng())


# ---- inpainting


def hole_at(frames: int, top: int = 8, bottom: int = 16) -> Tensor:
    hole = torch.zeros(1, 1, frames, 32, 32, dtype=torch.bool)
    hole[..., top:bottom, 8:24] = True
    return hole


@pytest.mark.parametrize("alone", [False, True])
def test_known_ids_stay_bit_equal(components: Components, decoded: Decoded, alone: bool) -> None:
    video, hole = noise(2, 3, 11, 32, 32), hole_at(1)
    config = sampling_config(steps=2, prime_frames=1, first_frame_alone=alone)
    made = torch.cat(list(inpaint(components, video, hole, "a", config, rng())), 2)
    _, known, ids = decoded[-1]
    mean = torch.where(hole, torch.nan, video).flatten(3).nanmean(3)[..., None, None]
    kept = ~pixels_to_tokens(hole.expand(2, 1, 11, 32, 32), components.tokenizer.patch)
    assert ids.shape == kept.shape and kept.float().mean() == 1 - 2 / 16
    assert torch.equal(ids[kept], components.tokenizer.encode(torch.where(hole, mean, video))[kept])
    assert torch.allclose(made, components.tokenizer.decode(ids), atol=1e-4)


def test_pixels_in_the_hole_do_not_matter(components: Components) -> None:
    hole = hole_at(11, bottom=17)
    one = noise(1, 3, 11, 32, 32)
    other = torch.where(hole, noise(1, 3, 11, 32, 32, seed=1), one)
    made = [
        torch.cat(list(inpaint(components, video, hole, "a", FAST, rng(), blend=True)), 2) for video in (one, other)
    ]
    outside = ~tokens_to_pixels(
        pixels_to_tokens(hole, components.tokenizer.patch), components.tokenizer.patch
    ).expand_as(one)
    assert torch.equal(*made)
    assert torch.equal(made[0][outside], one[outside])


def test_blending_returns_kept_pixels_in_longer_clips_too(components: Components, decoded: Decoded) -> None:
    video, hole = noise(1, 3, 19, 32, 32), hole_at(1)
    plain = torch.cat(list(inpaint(components, video, hole, "a", FAST, rng())), 2)
    blended = torch.cat(list(inpaint(components, video, hole, "a", FAST, rng(), blend=True)), 2)
    assert plain.shape == blended.shape == video.shape
    inside = hole.expand_as(video)
    assert torch.equal(blended[~inside], video[~inside])
    assert not torch.equal(plain[~inside], video[~inside])
    assert not torch.equal(blended[inside], video[inside])
    for ids, known, result in decoded:
        assert torch.equal(result[known], ids[known])


def test_a_hole_may_move(components: Components, decoded: Decoded) -> None:
    hole = torch.zeros(1, 1, 5, 32, 32, dtype=torch.bool)
    hole[:, :, 2, :8, :8] = True  # the third frame: in latent frame 1, with the one before it
    list(inpaint(components, noise(1, 3, 5, 32, 32), hole, "a", FAST, rng()))
    assert (~decoded[0][1]).nonzero().tolist() == [[0, 1, 0, 0]]


def test_tokens_and_their_pixels() -> None:
    where = torch.rand(2, 3, 4, 5, generator=rng()) < 0.3
    shown = tokens_to_pixels(where, (2, 8, 8))
    assert shown.shape == (2, 1, 5, 32, 40)
    assert torch.equal(pixels_to_tokens(shown, (2, 8, 8)), where)
    one = torch.zeros(1, 1, 5, 16, 16, dtype=torch.bool)
    one[0, 0, 4, 15, 15] = True
    assert pixels_to_tokens(one, (2, 8, 8)).nonzero().tolist() == [[0, 2, 1, 1]]
