"""The text encoder over bytes."""

from __future__ import annotations

import pytest
import torch

from phenaki.conditioning import WordEncoder, WordEncoderConfig
from phenaki.conditioning.words import split_words
from phenaki.core.errors import PhenakiError


def test_words_are_lower_case_bytes_and_long_ones_are_split() -> None:
    assert split_words("A RED circle,  moves!") == [b"a", b"red", b"circle", b",", b"moves", b"!"]
    assert split_words("x" * 40) == [b"x" * 16, b"x" * 16, b"x" * 8]
    assert b"".join(split_words("красный")).decode() == "красный"


@torch.no_grad()
def test_embeddings_distinguish_words_letters_and_order(text_encoder: WordEncoder) -> None:
    prompts = ["red", "der", "blue", "reds", "a red star", "a star red"]
    text = text_encoder.encode(prompts)
    assert text.embeddings.shape == (6, 3, 64)
    assert text.mask.sum(1).tolist() == [1, 1, 1, 1, 3, 3]
    flat = (text.embeddings * text.mask[..., None]).flatten(1)
    assert (torch.cdist(flat, flat) + 9 * torch.eye(6)).min() > 0.1


@torch.no_grad()
def test_padding_does_not_change_a_prompt(text_encoder: WordEncoder) -> None:
    alone = text_encoder.encode(["a red star"]).embeddings[0]
    beside = text_encoder.encode(["a red star", "a blue circle moves to the left, over black"]).embeddings[0]
    assert torch.allclose(alone, beside[:3], atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("word " * 2000, "2,000 words"),
        ("красный круг", "а г й к"),
        ("a 赤 circle", "赤"),
    ],
)
def test_invalid_prompts_are_refused(text_encoder: WordEncoder, prompt: str, says: str) -> None:
    with pytest.raises(PhenakiError, match=says):
        text_encoder.encode([prompt])


def test_any_alphabet_may_be_learned() -> None:
    encoder = WordEncoder(WordEncoderConfig(width=64, layers=1, alphabet=""))
    assert encoder.encode(["красный круг"]).mask.sum() == 2
    WordEncoder(WordEncoderConfig(width=64, layers=1)).check("naïve café")
