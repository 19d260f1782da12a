"""Guidance: the two branches, negative prompts, scales that change over the steps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from helpers.sampling import sampling_config
from phenaki.conditioning import Text, WordEncoder
from phenaki.core.actions import ActionSpec
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, Condition, MaskedTransformer, MaskedTransformerSizes
from phenaki.generators.base import Over
from phenaki.generators.causal import CausalTransformer, CausalTransformerSizes
from phenaki.pipeline import Phenaki
from phenaki.sampling import (
    DecodingConfig,
    GuidanceConfig,
    Scene,
    cfg_conditions,
    cfg_logits_fns,
    plan_windows,
    sample_ids,
)
from phenaki.sampling.decoding import LogitsFn
from phenaki.sampling.guidance import cfg_branches
from phenaki.sampling.scenes import window_sampling
from phenaki.tokenizers import CViViT
from phenaki.tokenizers.spec import TokenizerSpec

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
    """Indices of about half of the flattened ids."""
    return (torch.rand(ids.numel(), generator=torch.Generator().manual_seed(0)) < 0.5).nonzero().squeeze(1)


SPEC = TokenizerSpec(vocab_size=31, patch=(2, 8, 8), image_size=(16, 24), fps=8.0)
STEERED = ActionSpec(("left", "right"), ("button", "button"))


@pytest.mark.parametrize("over", ["text", "actions", "both"])
def test_the_null_branch_hides_what_guidance_is_over(text_encoder: WordEncoder, over: Over) -> None:
    generator = CausalTransformer(CausalTransformerSizes(width=64, layers=1).config(SPEC, 64, STEERED))
    generator.precision = "float32"
    for parameter in generator.parameters():
        parameter.normal_(std=0.1)
    text, negative = text_encoder.encode(["a red circle"]), text_encoder.encode(["a star"])
    actions = torch.ones(1, 1, 4)
    _, null = cfg_branches(generator, text, True, None, actions, over)
    hides_text, hides_actions = over != "actions", over != "text"
    assert bool((null.mask[:, 1:] & text.mask).any()) != hides_text
    assert torch.equal(null.actions, generator.actions(actions)) != hides_actions
    _, null = cfg_branches(generator, text, True, negative, actions, over)
    assert torch.equal(null.keys_values[0][0], generator.condition(negative).keys_values[0][0]) == hides_text
    assert torch.equal(null.actions, generator.actions(actions)) != hides_actions


def test_guidance_over_actions_needs_some(
    tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    model = Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=3))
    with pytest.raises(PhenakiError, match="guidance_over 'both' needs a causal model that takes actions: use 'text'"):
        model.generate("a red circle", frames=3, guidance_over="both")
    with pytest.raises(PhenakiError, match="guidance_over must be one of 'text', 'actions', 'both', not 'keys'"):
        model.generate("a red circle", frames=3, guidance_over="keys")
    with pytest.raises(PhenakiError, match="'a star' has no effect in guidance over actions"):
        sampling_config(guidance_over="actions", negative_prompt="a star")
    steered = MaskedTransformer(
        MaskedTransformerSizes(frames=3, width=64, layers=1).config(tokenizer.spec, 64, STEERED)
    )
    model = Phenaki(Components(steered, tokenizer, text_encoder), sampling_config(steps=3))
    with pytest.raises(PhenakiError, match="guidance_over 'actions' needs a causal model"):
        model.play("a red circle", guidance_over="actions")


def test_guidance_over_actions_is_for_a_video_that_is_steered(tokenizer: CViViT, text_encoder: WordEncoder) -> None:
    sizes = CausalTransformerSizes(frames=3, width=64, layers=1)
    generator = CausalTransformer(sizes.config(tokenizer.spec, text_encoder.width, STEERED))
    model = Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=1))
    with pytest.raises(PhenakiError, match="guidance_over 'actions' has no effect without actions"):
        model.generate("a red circle", frames=3, guidance_over="actions")
    model.play("a red circle", guidance_over="actions").step()
    model.generate("a red circle", frames=3, guidance_over="both")


def guided(generator: MaskedTransformer, text: Text, scale: float, negative: Text | None = None) -> LogitsFn:
    return cfg_logits_fns(generator, cfg_conditions(generator, text, scale != 1, negative), [scale])[0]


def test_it_mixes_the_two_branches(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor
) -> None:
    alone, ignored, mixed = (guided(generator, text, scale)(ids, where) for scale in (1.0, 0.0, 3.0))
    assert torch.allclose(mixed, ignored + 3 * (alone - ignored), atol=0.1)
    dropped = generator(ids, generator.condition(text, drop=torch.ones(2, dtype=torch.bool)), where)
    assert dropped.shape == alone.shape == (len(where), generator.vocab_size)
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
    steered = guided(generator, text, 3.0, against)(ids, where)
    alone, other = (guided(generator, each, 1.0)(ids, where) for each in (text, against))
    assert torch.allclose(steered, other + 3 * (alone - other), atol=0.1)
    assert not torch.allclose(steered, guided(generator, text, 3.0)(ids, where), atol=0.1)
    assert torch.allclose(guided(generator, text, 0.0, against)(ids, where), other, atol=0.05)
    assert torch.equal(guided(generator, text, 1.0, against)(ids, where), alone)


def test_a_prompt_against_itself_is_the_prompt_alone(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor
) -> None:
    steered = guided(generator, text, 7.0, text)(ids, where)
    assert torch.allclose(steered, guided(generator, text, 1.0)(ids, where), atol=0.05)


def test_each_step_has_its_scale(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor
) -> None:
    scales = [0.0, 1.0, 2.5]
    logits_fns = cfg_logits_fns(generator, cfg_conditions(generator, text, True), scales)
    for scale, logits_fn in zip(scales, logits_fns, strict=True):
        assert torch.allclose(logits_fn(ids, where), guided(generator, text, scale)(ids, where), atol=0.05)


@pytest.mark.parametrize("steps", [2, 3, 7, 48])
@pytest.mark.parametrize(("start", "end"), [(1.0, 4.1), (0.0, 0.3), (5.0, 1.0), (0.1, 0.7)])
def test_rising_values_hit_their_ends_and_rise_evenly(steps: int, start: float, end: float) -> None:
    scales = GuidanceConfig(scale=start, scale_end=end).scales(steps)
    temperatures = DecodingConfig(steps=steps, temperature=2 * start, temperature_end=2 * end).temperatures
    assert scales[0] == start and scales[-1] == end and len(scales) == len(temperatures) == steps
    assert temperatures[0] == 2 * start and temperatures[-1] == 2 * end
    gaps = torch.tensor(scales, dtype=torch.double).diff()
    assert torch.allclose(gaps, torch.full_like(gaps, (end - start) / (steps - 1)))


def test_without_an_end_values_are_constant() -> None:
    assert GuidanceConfig(scale=2.0).scales(3) == [2.0] * 3
    assert DecodingConfig(steps=3, temperature=0.4).temperatures == [0.4] * 3
    assert GuidanceConfig(scale=2.0, scale_end=4.0).scales(1) == [2.0]


@pytest.mark.parametrize(("fraction", "guided"), [(1.0, 8), (0.5, 4), (0.3, 2), (0.01, 1)])
def test_a_fraction_of_the_steps_is_guided(fraction: float, guided: int) -> None:
    constant = GuidanceConfig(scale=2.0, fraction=fraction)
    assert constant.scales(8) == [2.0] * guided + [1.0] * (8 - guided)
    rising = GuidanceConfig(scale=2.0, scale_end=2.0 + (guided - 1), fraction=fraction)
    assert rising.scales(8) == pytest.approx([2.0 + step for step in range(guided)] + [1.0] * (8 - guided))


def test_a_step_without_guidance_runs_one_branch(
    generator: MaskedTransformer,
    text_encoder: WordEncoder,
    text: Text,
    ids: torch.Tensor,
    where: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, rows = generator.features, []
    monkeypatch.setattr(generator, "features", lambda ids, *more: rows.append(len(ids)) or plain(ids, *more))
    longer = text_encoder.encode(["a much longer prompt than the others, which a green square and a star fulfil"] * 2)
    for negative in (None, longer):
        scales = GuidanceConfig(scale=3.0, fraction=0.5).scales(4)
        guided_fn, *_, plain_fn = cfg_logits_fns(generator, cfg_conditions(generator, text, True, negative), scales)
        assert guided_fn(ids, where).shape == plain_fn(ids, where).shape
        assert torch.allclose(plain_fn(ids, where), guided(generator, text, 1.0)(ids, where), atol=0.05)
    assert rows == [4, 2, 2, 2] * 2


def test_a_first_frame_alone_is_guided_in_all_steps() -> None:
    config = sampling_config(
        steps=4, prime_frames=1, first_frame_alone=True, first_frame_steps=6, guidance_scale=2.0, guidance_fraction=0.5
    )
    first, rest = plan_windows([Scene("a", 11)], 11, 2, config.rollout)
    scales = []
    for window in (first, rest):
        sampling = window_sampling(window, config)
        scales.append(sampling.guidance.scales(sampling.decoding.steps))
    assert scales == [[2.0] * 6, [2.0, 2.0, 1.0, 1.0]]


def test_a_scale_that_ends_where_it_starts_is_constant(
    generator: MaskedTransformer, text_encoder: WordEncoder, text: Text, ids: torch.Tensor
) -> None:
    def sampled(**change: object) -> torch.Tensor:
        config = sampling_config(steps=4, guidance_scale=2.0, **change)
        components, known = Components(generator, text_encoder=text_encoder), torch.zeros_like(ids, dtype=torch.bool)
        return sample_ids(components, text, ids, known, config, torch.Generator().manual_seed(0))

    constant = sampled()
    assert torch.equal(sampled(guidance_scale_end=2.0), constant)
    assert not torch.equal(sampled(guidance_scale_end=30.0), constant)
    assert not torch.equal(sampled(negative_prompt="a green square"), constant)


def test_a_text_is_conditioned_on_once_for_all_steps(
    generator: MaskedTransformer,
    text_encoder: WordEncoder,
    text: Text,
    ids: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, calls = generator.condition, []
    monkeypatch.setattr(
        generator, "condition", lambda text, *others: calls.append(len(text.mask)) or plain(text, *others)
    )

    def run(**options: object) -> list[int]:
        calls.clear()
        config = sampling_config(steps=9, guidance_scale=1.0, **options)
        components, known = Components(generator, text_encoder=text_encoder), torch.zeros_like(ids, dtype=torch.bool)
        sample_ids(components, text, ids, known, config, torch.Generator())
        return list(calls)

    assert run(guidance_scale_end=4.0, negative_prompt="a star") == [2, 2]
    assert run(guidance_scale_end=4.0) == [2, 2]
    assert run() == [2]  # at scale 1 there is no second branch


def test_known_ids_stay_and_every_step_is_reported(
    generator: MaskedTransformer, text_encoder: WordEncoder, text: Text, ids: torch.Tensor
) -> None:
    known = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    before, steps = ids.masked_fill(known, 7), []
    config, rng = sampling_config(steps=3), torch.Generator().manual_seed(0)
    found = sample_ids(Components(generator), text, before, known, config, rng, steps.append)
    assert (found[known] == 7).all() and (found < generator.vocab_size).all()
    assert steps == [1, 2, 3]


def test_a_negative_prompt_reaches_the_generator(
    tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    model = Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=3, guidance_scale=2.0))
    videos = [model.generate("a red circle", frames=3, negative_prompt=prompt).video for prompt in (None, "a star")]
    assert not torch.equal(*videos)
    with pytest.raises(PhenakiError, match="the negative prompt: .*letters"):
        model.stream("a red circle", negative_prompt="круг")
    with pytest.raises(PhenakiError, match="no effect at guidance scale 1"):
        model.stream("a red circle", negative_prompt="a star", guidance_scale=1.0)
    rising = {"negative_prompt": "a star", "guidance_scale": 1.0, "guidance_scale_end": 3.0}
    with pytest.raises(PhenakiError, match="no effect at guidance scale 1"):
        model.stream("a red circle", steps=1, **rising)  # the first step has the first scale
    model.stream("a red circle", steps=2, **rising)


class OneText(Condition):
    """A condition of another generator, which knows how to join its own."""

    @staticmethod
    def concatenate(conditions: Sequence[Condition]) -> OneText:
        whole = Condition.concatenate(conditions)
        return OneText(whole.keys_values, whole.mask, whole.frames)


def test_a_generator_joins_conditions_of_its_own(
    generator: MaskedTransformer, text: Text, ids: torch.Tensor, where: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, condition, features = guided(generator, text, 3.0)(ids, where), generator.condition, generator.features
    seen: list[Condition] = []

    def own(text: Text, *others: torch.Tensor | None) -> OneText:
        return OneText.concatenate([condition(text, *others)])

    def spied(ids: torch.Tensor, condition: Condition, *rest: object) -> torch.Tensor:
        seen.append(condition)
        return features(ids, condition, *rest)

    monkeypatch.setattr(generator, "condition", own)
    monkeypatch.setattr(generator, "features", spied)
    assert torch.equal(guided(generator, text, 3.0)(ids, where), expected)
    assert type(seen[0]) is OneText and len(seen[0].mask) == 2 * len(text.mask)
    assert type(seen[0].repeat(2)) is OneText
