"""A code of several ids: how a quantizer splits it, and how generators write neighbouring ids of one position."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phenaki.conditioning import Text
from phenaki.core.components import load_component, save_component
from phenaki.core.config import from_dict, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.generators import (
    CausalTransformerSizes,
    Condition,
    Generator,
    GeneratorSizes,
    MaskedTransformerSizes,
    build_generator,
)
from phenaki.generators.critic import CriticConfig, build_critic
from phenaki.sampling import DecodingConfig
from phenaki.sampling.decoding import decode
from phenaki.sampling.editing import pixels_to_tokens
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig, TokenizerSpec, code_usage
from phenaki.tokenizers.quantizers import build_quantizer
from phenaki.tokenizers.tiling import Tiled

LEVELS = (4, 3, 2, 4, 3, 2)  # two codebooks of 24 codes, or one of 576
SIZES = {
    "masked": MaskedTransformerSizes(frames=5, width=64, layers=2),
    "causal": CausalTransformerSizes(frames=5, width=64, layers=2, window=3),
}


def spec(num_codebooks: int = 2) -> TokenizerSpec:
    return TokenizerSpec(24, (2, 8, 8), (16, 24), 8.0, num_codebooks)


def make(sizes: GeneratorSizes, num_codebooks: int = 2) -> Generator:
    torch.manual_seed(0)
    return build_generator(sizes, spec(num_codebooks), 8).double().eval()


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def generator(request: pytest.FixtureRequest) -> Generator:
    return make(request.param)


def clip(frames: int = 3, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(0, 24, (batch, frames, 2, 6), generator=torch.Generator().manual_seed(seed))


def condition(generator: Generator) -> Condition:
    embeddings = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return generator.condition(Text(embeddings, torch.ones(2, 3).bool()))


def tokenizer(num_codebooks: int) -> CViViT:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(levels=LEVELS, num_codebooks=num_codebooks)
    config = CViViTConfig(image_size=(16, 24), width=64, spatial_layers=1, temporal_layers=1, quantizer=quantizer)
    return CViViT(config).eval()


def test_codebooks_regroup_the_code_of_the_same_network() -> None:
    one, two = tokenizer(1), tokenizer(2)
    two.load_state_dict(one.state_dict())
    video = torch.rand(2, 3, 5, 16, 24)
    ids, pairs = one.encode(video), two.encode(video)
    assert pairs.shape == (2, 3, 2, 6) == (2, *two.grid(5, 16, 24)) and pairs.max() < 24 == two.vocab_size
    assert torch.equal(pairs[..., ::2] + 24 * pairs[..., 1::2], ids)
    assert torch.equal(two.decode(pairs), one.decode(ids))
    assert torch.equal(torch.cat(list(two.encode_stream(video.split(2, dim=2))), dim=1), pairs)
    tiled = Tiled(two, (16, 16))  # of 2 x 2 patches
    assert tiled.tile == (2, 2) and torch.equal(tiled.encode(video[..., :16]), two.encode(video[..., :16]))


def test_latents_of_any_shape_have_the_ids_of_a_row_side_by_side() -> None:
    quantizer = build_quantizer(QuantizerConfig(levels=LEVELS, num_codebooks=2), 16)
    latents = torch.randn(5, 7, 16)
    out = quantizer(latents)
    assert out.ids.shape == (5, 14)
    assert torch.equal(quantizer(latents[:, 3:4]).ids, out.ids[:, 6:8])
    assert torch.allclose(quantizer.indices_to_latents(out.ids), out.latents, atol=1e-6)


def test_usage_is_the_mean_over_codebooks() -> None:
    ids = torch.tensor([[0, 5, 1, 5], [2, 5, 3, 5]])  # four codes of the first, one of the second
    assert code_usage(ids, 8, 2) == pytest.approx((2.5, 0.3125))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_codebooks": 4}, "do not make 4 codebooks"),
        ({"num_codebooks": 2, "levels": (4, 3, 2, 4)}, "do not make 2 codebooks"),
        ({"num_codebooks": 2, "kind": "codebook"}, "'codebook' has one"),
    ],
)
def test_levels_that_do_not_split_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(PhenakiError, match=said):
        QuantizerConfig(**{"levels": LEVELS} | wrong)


@torch.no_grad()
def test_logits_are_of_ids(generator: Generator) -> None:
    ids, words = clip(), condition(generator)
    logits = generator.logits(ids, words)
    assert logits.shape == (2, 3, 2, 6, 24)
    where = torch.tensor([0, 1, 7, 40])
    assert torch.allclose(generator.logits(ids, words, where), logits.flatten(0, 3)[where])
    assert generator.features(ids, words).shape == (2, 3, 2, 3, 64)


@torch.no_grad()
def test_every_id_of_a_position_is_read_from_its_own_table(generator: Generator) -> None:
    ids, words = clip(), condition(generator)
    before = generator.logits(ids, words)
    for column in (0, 1):
        changed = ids.clone()
        changed[:, 0, 0, column] = generator.mask_id
        assert not torch.allclose(generator.logits(changed, words), before)
    swapped = ids.clone()
    swapped[0, 0, 0, :2] = torch.tensor([3, 8])
    other = swapped.clone()
    other[0, 0, 0, :2] = torch.tensor([8, 3])
    assert not torch.allclose(generator.logits(swapped, words), generator.logits(other, words))


@torch.no_grad()
def test_the_cache_equals_one_pass() -> None:
    generator = make(SIZES["causal"])
    ids, masked = clip(7), clip(7, seed=2)
    masked[torch.rand(masked.shape, generator=torch.Generator().manual_seed(3)) < 0.5] = generator.mask_id
    words, cache = condition(generator), generator.make_cache()
    expected = generator.logits(masked, words, clean=ids)
    for frame in range(7):
        logits = generator.logits(masked[:, frame : frame + 1], words, cache=cache)
        assert torch.allclose(logits[:, 0], expected[:, frame], atol=1e-9), frame
        generator.commit(ids[:, frame : frame + 1], words, cache)


@torch.no_grad()
def test_a_causal_generator_sees_no_later_latent_frame() -> None:
    generator, ids = make(SIZES["causal"]), clip(5)
    changed, words = ids.clone(), condition(generator)
    changed[:, 3] = (changed[:, 3] + 1) % 24
    differs = (generator.logits(changed, words) - generator.logits(ids, words)).abs().amax((0, 2, 3, 4)) > 0
    assert differs.tolist() == [False] * 3 + [True] * 2


@torch.no_grad()
def test_decoding_keeps_known_ids_and_fills_the_others(generator: Generator) -> None:
    ids, words = clip(1), condition(generator)
    known = torch.zeros_like(ids, dtype=torch.bool)
    known[..., :3] = True  # half of a position's ids may be known
    rng = torch.Generator().manual_seed(0)

    def logits_fn(partial: Tensor, where: Tensor) -> Tensor:
        return generator.logits(partial, words, where)

    made = decode(logits_fn, ids, known, generator.mask_id, DecodingConfig(steps=3), rng)
    assert torch.equal(made[known], ids[known]) and made.max() < 24


def test_gradients_reach_every_table_and_output(generator: Generator) -> None:
    ids = clip().float().long()
    ids[0, 0, 0, :2] = generator.mask_id
    loss = generator.float().logits(ids, generator.condition(Text(torch.randn(2, 3, 8), torch.ones(2, 3).bool())))
    loss.square().sum().backward()
    tables = generator.ids.weight.grad.view(2, 25, 64)
    assert tables[:, 24].abs().sum(-1).all()  # of the mask, in both
    assert generator.head.weight.grad.abs().sum(-1).all()


@pytest.mark.parametrize("kind", ["token", "self"])
def test_critics_score_every_id(kind: str) -> None:
    generator = make(SIZES["masked"]).float()
    critic = build_critic(CriticConfig(kind=kind), generator)
    text = Text(torch.randn(2, 3, 8), torch.ones(2, 3).bool())
    assert critic.scores(generator, clip(), critic.condition_on(generator, text)).shape == (2, 3, 2, 6)


def test_a_hole_covers_all_ids_of_a_patch() -> None:
    hole = torch.zeros(1, 1, 1, 16, 24).bool()
    hole[..., 0, 9] = True
    patches = pixels_to_tokens(hole, (2, 8, 8))
    assert patches.repeat_interleave(2, dim=-1)[0, 0].tolist() == [
        [False, False, True, True, False, False],
        [False] * 6,
    ]


def test_folders_written_before_codebooks_still_load(tmp_path: Path) -> None:
    old = tokenizer(1)
    save_component(old, tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "config.json"
    config = json.loads(file.read_text())
    config["config"]["quantizer"].pop("num_codebooks", None)
    config.pop("sha256", None)
    file.write_text(json.dumps(config))
    video = torch.rand(1, 3, 3, 16, 24)
    assert torch.equal(load_component(tmp_path / "tokenizer").encode(video), old.encode(video))
    values = to_dict(old.spec)
    del values["num_codebooks"]
    assert from_dict(TokenizerSpec, values) == old.spec


def test_a_tokenizer_of_other_codebooks_is_refused() -> None:
    generator = make(SIZES["masked"])
    generator.check_tokenizer(tokenizer(2))
    with pytest.raises(PhenakiError, match="vocab_size 24, not 576; num_codebooks 2, not 1"):
        generator.check_tokenizer(tokenizer(1))
