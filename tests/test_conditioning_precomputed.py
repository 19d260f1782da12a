"""Precomputed text embeddings as prompts, and models without text."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from helpers.sampling import sampling_config
from phenaki.conditioning import NoText, NoTextConfig, Text, WordEncoder
from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.core.precision import autocast
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.pipeline import Phenaki, load, load_text_encoder
from phenaki.sampling import Scene, rollout
from phenaki.tokenizers import CViViT


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    return Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=2, prime_frames=1))


@pytest.fixture
def textless(tokenizer: CViViT) -> Phenaki:
    torch.manual_seed(3)
    encoder = NoText(NoTextConfig())
    generator = MaskedTransformer(MaskedTransformerSizes(frames=5, width=64, layers=1).config(tokenizer.spec, 1))
    return Phenaki(Components(generator, tokenizer, encoder), sampling_config(steps=2, guidance_scale=2.0))


@torch.no_grad()
def test_embeddings_give_the_video_of_their_prompts(model: Phenaki) -> None:
    prompts = ["a red circle", "it moves down"]  # of as many words, as padding changes the last bits
    with autocast(model.device):
        text = model.text_encoder.encode(prompts)
    options = {"frames": [5, 3], "seed": 4, "samples": 2}
    wanted, made = model.generate(prompts, **options), model.generate(text, **options)
    assert torch.equal(made.video, wanted.video) and made.scene_starts == wanted.scene_starts
    assert made.prompts == (None, None)
    streamed = torch.cat(list(model.stream(text, **options)), 2)
    assert torch.equal(streamed, wanted.video)
    other = model.generate(Text(-text.embeddings, text.mask), **options)
    assert not torch.equal(other.video, wanted.video)


def test_hidden_embeddings_change_nothing(model: Phenaki) -> None:
    embeddings, mask = torch.randn(1, 4, 64), torch.tensor([[True, True, False, False]])
    texts = [Text(embeddings.masked_fill(~mask[..., None], hidden), mask) for hidden in (0.0, 9.0, torch.nan)]
    first, *others = (model.generate(text, frames=3).video for text in texts)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("embeddings", "mask", "says"),
    [
        (torch.zeros(4, 64), torch.ones(4).bool(), r"are float \(B, L, D\), not float32 \(4, 64\)"),
        (torch.zeros(1, 4, 64).long(), torch.ones(1, 4).bool(), "not int64"),
        (torch.zeros(1, 4, 64), torch.ones(1, 4), r"is bool \(1, 4\), not float32 \(1, 4\)"),
        (torch.zeros(1, 4, 64), torch.ones(1, 3).bool(), r"is bool \(1, 4\), not bool \(1, 3\)"),
        (torch.full((1, 4, 64), torch.inf), torch.ones(1, 4).bool(), "are not finite"),
        (
            torch.zeros(1, 4, 32),
            torch.ones(1, 4).bool(),
            "reads text of width 64, and this text has width 32",
        ),
    ],
)
def test_embeddings_that_cannot_be_read(
    model: Phenaki, embeddings: torch.Tensor, mask: torch.Tensor, says: str
) -> None:
    for make in (model.generate, model.stream):
        with pytest.raises(PhenakiError, match=says):
            make(Text(embeddings, mask))


def test_checked_embeddings_are_float32_and_zero_where_masked() -> None:
    embeddings = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    text = Text(embeddings.to(torch.float16).masked_fill(~mask[..., None], torch.nan), mask).checked()
    assert text.embeddings.dtype == torch.float32 and not text.embeddings.requires_grad
    assert torch.equal(text.embeddings[mask], embeddings.to(torch.float16).float().detach()[mask])
    assert (text.embeddings[~mask] == 0).all() and torch.equal(text.mask, mask)
    with pytest.raises(PhenakiError, match="are not finite: encode the text again, with a wider dtype"):
        Text(embeddings.masked_fill(mask[..., None], torch.nan), mask).checked()
    with pytest.raises(PhenakiError, match=r"are float \(B, L, D\), not float32 \(0, 3, 8\)"):
        Text(torch.zeros(0, 3, 8), torch.zeros(0, 3).bool()).checked()


@torch.no_grad()
def test_each_sample_of_a_scene_may_have_its_own_embeddings(model: Phenaki) -> None:
    prompts = ("a red circle", "a blue star")
    with autocast(model.device):
        text = model.text_encoder.encode(prompts)
    videos = [
        next(rollout(model.components, [Scene(each, 3)], model.sampling, torch.Generator().manual_seed(0), samples=2))
        for each in (prompts, text, Text(text.embeddings[:1], text.mask[:1]), prompts[0])
    ]
    assert torch.equal(videos[0], videos[1]) and torch.equal(videos[2], videos[3])
    assert not torch.equal(videos[0], videos[2])
    for three in (Text(*(torch.cat((part, part[:1])) for part in text[:2])), ("a", "b", "c")):
        with pytest.raises(PhenakiError, match="a scene has 3 prompts for 2 samples: give one, or one for each"):
            next(rollout(model.components, [Scene(three, 3)], model.sampling, torch.Generator(), samples=2))


def test_a_model_without_text_makes_videos_and_is_saved(textless: Phenaki, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        wanted = textless.generate("", seed=1, samples=2).video
    assert wanted.shape == (2, 3, 5, 32, 32) and not torch.equal(wanted[0], wanted[1])
    textless.save_pretrained(tmp_path / "model")
    assert [file.name for file in (tmp_path / "model" / "text").iterdir()] == ["config.json"]
    again = load(tmp_path / "model", device="cpu")
    with pytest.warns(PhenakiWarning, match="trained without text: 'a dog' is ignored"):
        assert torch.equal(again.generate("a dog", seed=1, samples=2).video, wanted)
    assert isinstance(load_text_encoder("none"), NoText)
