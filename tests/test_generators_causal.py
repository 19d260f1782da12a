"""The block-causal generator: what it sees, its cache, two copies in one pass."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from phenaki.conditioning import Text
from phenaki.core.config import from_dict, override, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.generators import Condition, MaskedTransformer, MaskedTransformerSizes, build_generator
from phenaki.generators.causal import CausalTransformer, CausalTransformerSizes, causal_weights
from phenaki.tokenizers.spec import TokenizerSpec
from phenaki.training.generator import GeneratorRecipe
from phenaki.training.recipes import masked_debug

SPEC = TokenizerSpec(vocab_size=31, patch=(2, 8, 8), image_size=(16, 24), fps=8.0)
SIZES = {"frames": 5, "width": 64, "layers": 2, "window": 4}


def make(**changes: int) -> CausalTransformer:
    torch.manual_seed(0)
    generator = CausalTransformerSizes(**SIZES | changes).config(SPEC, 8)
    return CausalTransformer(generator).double().eval()


def clip(frames: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, frames, 2, 3), generator=torch.Generator().manual_seed(seed))


def text(batch: int = 2, seed: int = 1) -> Text:
    rng = torch.Generator().manual_seed(seed)
    return Text(torch.randn(batch, 3, 8, generator=rng, dtype=torch.double), torch.ones(batch, 3).bool())


@pytest.mark.parametrize(("window", "sinks"), [(4, 0), (4, 1), (1, 0), (1, 1), (6, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("defer", [False, True])
@torch.no_grad()
def test_logits_with_the_cache_are_those_of_one_pass(
    window: int, sinks: int, dtype: torch.dtype, tolerance: float, defer: bool
) -> None:
    generator = make(window=window, sinks=sinks).to(dtype)
    ids, masked = clip(200), clip(200, seed=2)
    masked[torch.rand(masked.shape, generator=torch.Generator().manual_seed(3)) < 0.5] = generator.mask_id
    none, every = torch.zeros(2).bool(), torch.ones(2).bool()
    words = text()._replace(embeddings=text().embeddings.to(dtype))
    condition = Condition.concatenate([generator.condition(words, drop=drop) for drop in (none, every)])
    twice, masked = ids.repeat(2, 1, 1, 1), masked.repeat(2, 1, 1, 1)
    expected = generator.logits(masked, condition, clean=twice)
    cache = generator.make_cache()
    for frame in range(ids.shape[1]):
        logits = generator.logits(masked[:, frame : frame + 1], condition, cache=cache)
        assert torch.allclose(logits[:, 0], expected[:, frame], atol=tolerance), frame
        assert torch.equal(logits[:, 0].argmax(-1), expected[:, frame].argmax(-1)), frame
        generator.commit(twice[:, frame : frame + 1], condition, cache, defer)


@torch.no_grad()
def test_a_latent_frame_sees_the_band_alone() -> None:
    generator = make(layers=1)
    ids, condition = clip(9), generator.condition(text())
    before = generator.logits(ids, condition)
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 31
    differs = (generator.logits(changed, condition) - before).abs().amax((0, 2, 3, 4)) > 0
    assert differs.tolist() == [3 <= frame < 3 + 4 for frame in range(9)]


@torch.no_grad()
def test_a_sink_stays_in_sight() -> None:
    ids, (generator, without) = clip(9), (make(layers=1, sinks=1), make(layers=1))
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 31
    for model, seen in ((generator, True), (without, False)):
        condition = model.condition(text())
        differs = (model.logits(changed, condition) - model.logits(ids, condition)).abs().amax((0, 2, 3, 4)) > 0
        assert differs.tolist() == [True] * 4 + [seen] * 5


@torch.no_grad()
def test_there_is_no_absolute_time() -> None:
    """Where no first frame is in sight, the same window gives the same logits however late it comes."""
    generator = make(layers=1)
    condition = generator.condition(text())
    ids = clip(4)
    late = torch.cat((clip(70, seed=5), ids), dim=1)
    early = torch.cat((clip(1, seed=6), ids), dim=1)
    assert torch.allclose(
        generator.logits(late, condition)[:, -1], generator.logits(early, condition)[:, -1], atol=1e-9
    )


@torch.no_grad()
def test_the_cache_does_not_grow_and_goes_on_from_its_state() -> None:
    generator = make(sinks=1)
    condition, cache = generator.condition(text()), generator.make_cache()
    sizes = []
    for frame in clip(12).split(1, dim=1):
        generator.commit(frame, condition, cache)
        sizes.append(sum(tensor.nbytes for tensor in cache.state().values()))
    assert len(set(sizes[4:])) == 1
    again = generator.make_cache()
    again.restore(cache.state())
    ids = clip(1, seed=9)
    expected = generator.logits(ids, condition, cache=cache)
    assert torch.equal(generator.logits(ids, condition, cache=again), expected)
    one = Condition([(k[:1], v[:1]) for k, v in condition.keys_values], condition.mask[:1])
    assert torch.allclose(generator.logits(ids[:1], one, cache=cache), expected[:1], atol=1e-12)


@torch.no_grad()
def test_captions_switch_at_their_latent_frame() -> None:
    generator = make(layers=1)
    first, second = text(seed=1), text(seed=2)
    captions = Text(*(torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(first[:2], second[:2], strict=True)))
    condition = generator.condition(Text.timed(captions, [[0, 3], [0, 3]]))
    ids = clip(6)
    logits, alone = generator.logits(ids, condition), generator.logits(ids, generator.condition(first))
    assert torch.allclose(logits[:, :3], alone[:, :3], atol=1e-12)
    assert not torch.allclose(logits[:, 3], alone[:, 3], atol=1e-3)
    cache = generator.make_cache()
    for number, frame in enumerate(ids.split(1, dim=1)):
        assert torch.allclose(generator.logits(frame, condition, cache=cache)[:, 0], logits[:, number], atol=1e-9)
        generator.commit(frame, condition, cache)


@torch.no_grad()
def test_weights_of_a_bidirectional_generator_fit() -> None:
    """On a first frame alone both see the same but for the position in time, which is its mean."""
    torch.manual_seed(0)
    sizes = {name: SIZES[name] for name in ("frames", "width", "layers")}
    masked = build_generator(MaskedTransformerSizes(**sizes), SPEC, 8).double().eval()
    causal = make(window=1)
    causal.load_state_dict(causal_weights(masked))
    assert torch.equal(causal.head.weight, masked.head.weight)
    masked.positions.weight[:, :12] = 0
    causal.load_state_dict(causal_weights(masked))
    ids = clip(1)
    expected = masked.logits(ids, masked.condition(text()))
    assert torch.allclose(causal.logits(ids, causal.condition(text())), expected, atol=1e-9)


def test_gradients_reach_all_weights() -> None:
    generator = make(sinks=1)
    ids = clip(6)
    masked = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5, 31)
    where = (masked == 31).flatten().nonzero().squeeze(1)
    drop = torch.tensor([True, False])
    logits = generator.logits(masked, generator.condition(text(), drop=drop), where, clean=ids)
    torch.nn.functional.cross_entropy(logits, ids.flatten()[where]).backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_one_latent_frame_at_a_time() -> None:
    generator = make()
    with pytest.raises(PhenakiError, match="one latent frame at a time is decoded, not 2"):
        generator.logits(clip(2), generator.condition(text()), cache=generator.make_cache())


def test_a_recipe_chooses_the_generator_by_the_type_of_its_sizes() -> None:
    recipe = override(masked_debug(), ["generator.window=3"])
    assert recipe.generator == CausalTransformerSizes(frames=5, width=64, layers=2, window=3)
    assert override(recipe, ["generator.width=128"]).generator.window == 3
    for made, kind in ((masked_debug(), MaskedTransformer), (recipe, CausalTransformer)):
        assert from_dict(GeneratorRecipe, json.loads(json.dumps(to_dict(made)))) == made
        assert type(build_generator(made.generator, SPEC, 64)) is kind


def test_forward_calls_the_logits_of_a_subclass() -> None:
    class Louder(MaskedTransformer):
        def logits(self, *args, **kwargs) -> Tensor:
            return 2 * super().logits(*args, **kwargs)

    sizes = MaskedTransformerSizes(frames=5, width=64, layers=1)
    generator = Louder(sizes.config(SPEC, 8)).double()
    condition = generator.condition(text())
    assert torch.equal(generator(clip(2), condition), generator.logits(clip(2), condition))
    with pytest.raises(PhenakiError, match="Louder keeps no cache"):
        generator.make_cache()
