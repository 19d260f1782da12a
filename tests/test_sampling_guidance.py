"""Guidance: the two branches, negative prompts, scales that change over the steps."""

from __future__ import annotations

import pytest
import torch

from phenaki.conditioning import WordEncoder
from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.generators import MaskedTransformer
from phenaki.pipeline import Phenaki
from phenaki.sampling import SamplingConfig, Scene, decode, guided, plan, steered
from phenaki.sampling.guidance import guided_by_step
from phenaki.sampling.rollout import window_sampling
from phenaki.tokenizers import CViViT

PROMPTS = ["a red circle", "a blue star moves left"]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def text(text_encoder: WordEncoder) -> Text:
    return text_encoder.encode(PROMPTS)


@pytest.fixture
def ids(generator: MaskedTransformer) -> torch.Tensor:
    return torch.full((2, 3, 4, 4), generator.mask_id)


@pytest.fixture
def where(ids: torch.Tensor) -> torch.Tensor:
    return torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5


def test_it_mixes_the_two_branches(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor
) -> None:
    alone, ignored, mixed = (guided(generator, text, scale)(ids, where) for scale in (1.0, 0.0, 3.0))
    assert torch.allclose(mixed, ignored + 3 * (alone - ignored), atol=0.1)
    dropped = generator(ids, generator.drop(text, torch.ones(2, dtype=torch.bool)))[where]
    assert torch.allclose(ignored, dropped, atol=0.05)
    assert not torch.allclose(alone, ignored, atol=0.05)


@pytest.mark.parametrize("negative", ["a star", "two large green triangles, on a purple background"])
def test_a_negative_prompt_takes_the_place_of_no_text(
    generator: MaskedTransformer,
    text_encoder: WordEncoder,
    text: Text,
    ids: torch.Tensor,
    where: torch.Tensor,
    negative: str,
) -> None:
    """Whether it is shorter or longer than the prompt."""
    against = text_encoder.encode([negative] * 2)
    led = guided(generator, text, 3.0, against)(ids, where)
    alone, other = (guided(generator, each, 1.0)(ids, where) for each in (text, against))
    assert torch.allclose(led, other + 3 * (alone - other), atol=0.1)
    assert not torch.allclose(led, guided(generator, text, 3.0)(ids, where), atol=0.1)
    assert torch.allclose(guided(generator, text, 0.0, against)(ids, where), other, atol=0.05)
    assert torch.equal(guided(generator, text, 1.0, against)(ids, where), alone)


def test_a_prompt_against_itself_is_the_prompt_alone(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor
) -> None:
    led = guided(generator, text, 7.0, text)(ids, where)
    assert torch.allclose(led, guided(generator, text, 1.0)(ids, where), atol=0.05)


def test_each_step_has_its_scale(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor
) -> None:
    scales = [0.0, 1.0, 2.5]
    for scale, logits_fn in zip(scales, guided_by_step(generator, text, scales), strict=True):
        assert torch.allclose(logits_fn(ids, where), guided(generator, text, scale)(ids, where), atol=0.05)


@pytest.mark.parametrize("steps", [2, 3, 7, 48])
@pytest.mark.parametrize(("start", "end"), [(1.0, 4.1), (0.0, 0.3), (5.0, 1.0), (0.1, 0.7)])
def test_rising_values_hit_their_ends_and_rise_evenly(steps: int, start: float, end: float) -> None:
    config = SamplingConfig(
        steps=steps, guidance=start, guidance_end=end, temperature=2 * start, temperature_end=2 * end
    )
    assert config.scales[0] == start and config.scales[-1] == end and len(config.scales) == steps
    assert config.temperatures[0] == 2 * start and config.temperatures[-1] == 2 * end
    gaps = torch.tensor(config.scales, dtype=torch.double).diff()
    assert torch.allclose(gaps, torch.full_like(gaps, (end - start) / (steps - 1)))


def test_what_has_no_end_stays() -> None:
    assert SamplingConfig(steps=3, guidance=2.0).scales == [2.0] * 3
    assert SamplingConfig(steps=3, temperature=0.4).temperatures == [0.4] * 3
    assert SamplingConfig(steps=1, guidance=2.0, guidance_end=4.0).scales == [2.0]


@pytest.mark.parametrize(("share", "guided"), [(1.0, 8), (0.5, 4), (0.3, 2), (0.01, 1)])
def test_a_share_of_the_steps_is_guided(share: float, guided: int) -> None:
    config = SamplingConfig(steps=8, guidance=2.0, guidance_share=share)
    assert config.scales == [2.0] * guided + [1.0] * (8 - guided)
    rising = SamplingConfig(steps=8, guidance=2.0, guidance_end=2.0 + (guided - 1), guidance_share=share)
    assert rising.scales == pytest.approx([2.0 + step for step in range(guided)] + [1.0] * (8 - guided))


def test_a_step_without_guidance_runs_one_branch(
    generator: MaskedTransformer,
    text_encoder: WordEncoder,
    text: Text,
    ids: torch.Tensor,
    where: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, rows = generator.features, []
    monkeypatch.setattr(generator, "features", lambda given, *more: rows.append(len(given)) or plain(given, *more))
    for negative in (None, "a much longer prompt than the others, which a green square and a star fulfil"):
        config = SamplingConfig(steps=4, guidance=3.0, guidance_share=0.5, negative=negative)
        guided_fn, *_, plain_fn = steered(generator, text_encoder, text, config)
        assert guided_fn(ids, where).shape == plain_fn(ids, where).shape
        assert torch.allclose(plain_fn(ids, where), guided(generator, text, 1.0)(ids, where), atol=0.05)
    assert rows == [4, 2, 2, 2] * 2


def test_a_first_frame_by_itself_is_guided_in_all_steps() -> None:
    config = SamplingConfig(
        steps=4, prime_frames=1, first_frame_alone=True, first_frame_steps=6, guidance=2.0, guidance_share=0.5
    )
    first, rest = plan([Scene("a", 11)], 11, 2, config)
    assert window_sampling(first, config).scales == [2.0] * 6
    assert window_sampling(rest, config).scales == [2.0, 2.0, 1.0, 1.0]


def test_guidance_that_rises_to_where_it_begins_is_constant(
    generator: MaskedTransformer, text_encoder: WordEncoder, text: Text, ids: torch.Tensor
) -> None:
    def made(**change: object) -> torch.Tensor:
        config = SamplingConfig(steps=4, guidance=2.0, **change)
        logits_fns = steered(generator, text_encoder, text, config)
        rng = torch.Generator().manual_seed(0)
        return decode(logits_fns, ids, torch.zeros_like(ids, dtype=torch.bool), generator.mask_id, config, rng)

    constant = made()
    assert torch.equal(made(guidance_end=2.0), constant)
    assert not torch.equal(made(guidance_end=30.0), constant)
    assert not torch.equal(made(negative="a green square"), constant)


def test_text_is_read_once_for_all_steps(
    generator: MaskedTransformer, text_encoder: WordEncoder, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = generator.context, []
    monkeypatch.setattr(generator, "context", lambda given: calls.append(len(given.mask)) or plain(given))
    steered(generator, text_encoder, text, SamplingConfig(steps=9, guidance=1.0, guidance_end=4.0, negative="a star"))
    steered(generator, text_encoder, text, SamplingConfig(steps=9, guidance=1.0))
    assert calls == [4, 2]  # both branches in one batch; the text alone at guidance 1


def test_a_negative_prompt_goes_through_the_whole_model(
    tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    model = Phenaki(tokenizer, generator, text_encoder, SamplingConfig(steps=3, guidance=2.0))
    plain, led = (model.generate("a red circle", frames=3, negative=negative).video for negative in (None, "a star"))
    assert not torch.equal(plain, led)
    with pytest.raises(PhenakiError, match="the negative prompt: .*letters"):
        model.stream("a red circle", negative="круг")
    with pytest.raises(PhenakiError, match="changes nothing at guidance 1"):
        model.stream("a red circle", negative="a star", guidance=1.0)
