"""Training of a causal generator: what it hides, what it sees of the past, actions, timed captions, fine-tuning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phenaki.conditioning import WordEncoder
from phenaki.core.actions import ActionSpec
from phenaki.core.config import override
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import autocast
from phenaki.data.config import SourceConfig
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.generators import CausalTransformer, CausalTransformerSizes, Components, MaskedTransformer
from phenaki.generators.base import Over
from phenaki.pipeline import Phenaki
from phenaki.tokenizers import CViViT, QuantizerConfig
from phenaki.training.generator import (
    GeneratorRecipe,
    build_networks,
    cfg_logits,
    compute_loss,
    initialize_from,
    train_generator,
)
from phenaki.training.gradients import accumulate_gradients
from phenaki.training.inputs import open_inputs
from phenaki.training.masking import add_noise, draw_frame_masks, make_micro_batches
from phenaki.training.recipes import GENERATOR_RECIPES, cvivit_debug
from phenaki.worlds.shapes.recording import KEYS

GRID = (6, 4, 4)
SPEC = ActionSpec(("left",), ("button",))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_latent_frame_has_a_mask_ratio_of_its_own() -> None:
    free, masked = draw_frame_masks(GRID, torch.zeros(200).bool(), window=3, rng=rng())
    ratios = masked.float().mean(dim=(2, 3))
    assert free.all() and masked.flatten(2).any(-1).all()
    assert abs(ratios.mean() - 0.64) < 0.05 and ratios.std(dim=1).mean() > 0.2  # cosine: 2 / pi on average


@pytest.mark.parametrize(("window", "given"), [(1, 0), (3, 2), (6, 5), (9, 5)])
def test_clips_from_the_middle_begin_with_what_is_only_seen(window: int, given: int) -> None:
    begun = torch.tensor([False, True])
    free, masked = draw_frame_masks(GRID, begun, window, rng())
    assert free[0].all() and not free[1, :given].any() and free[1, given:].all()
    assert not (masked & ~free).any() and masked[1, given:].flatten(1).any(-1).all()


def test_noise_on_what_came_before() -> None:
    ids = torch.randint(100, (400, *GRID), generator=rng(1))
    assert add_noise(ids, 0.0, 100, rng()) is ids
    changed = (add_noise(ids, 0.4, 100, rng()) != ids).float().mean(dim=(1, 2, 3))
    assert 0.4 < (changed > 0).float().mean() < 0.55 and changed.max() < 0.5 and abs(changed.mean() - 0.1) < 0.03


def recipe(**changes: str) -> GeneratorRecipe:
    return override(GENERATOR_RECIPES["causal_debug"](), [f"{key}={value}" for key, value in changes.items()])


def test_parts_of_a_batch_have_the_gradients_of_the_whole(text_encoder: WordEncoder, tokenizer: CViViT) -> None:
    torch.manual_seed(0)
    sizes = CausalTransformerSizes(frames=11, width=64, layers=1, window=3)
    generator = CausalTransformer(sizes.config(tokenizer.spec, 64, SPEC)).train()
    torch.nn.init.normal_(generator.actions.weight)
    networks = Components(generator, tokenizer, text_encoder)
    ids = torch.randint(125, (5, *GRID), generator=rng(1))
    starts = [[0, 2], [0], [0, 1, 5], [0], [0, 3]]
    tokens = text_encoder.tokenize([f"a red circle {number}" for number in range(sum(map(len, starts)))])
    begins = torch.tensor([True, False, True, True, False])
    masks = draw_frame_masks(GRID, ~begins, 3, rng())
    others = {
        "clean": add_noise(ids, 0.5, 125, rng()),
        "actions": torch.rand(5, 6, 2, generator=rng()),
        "dropped_actions": torch.tensor([False, True, False, False, False]),
        "starts": begins,
    }

    def gradients(parts: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for network in (generator, text_encoder):
            network.zero_grad()
        dropped = torch.arange(5) == 2
        batches = make_micro_batches(ids, tokens, masks, dropped, None, 2.0, parts, starts, **others)
        assert len(batches) == parts
        plain = lambda: autocast(torch.device("cpu"), "float32")  # noqa: E731
        objective, *_ = accumulate_gradients(batches, lambda part: compute_loss(networks, part, recipe(), plain))
        named = [*generator.named_parameters(), *text_encoder.named_parameters()]
        return objective, {name: parameter.grad.clone() for name, parameter in named}

    (whole, expected), (summed, found) = gradients(1), gradients(3)
    assert torch.allclose(whole, summed, atol=1e-5)
    for name in expected:
        assert torch.allclose(expected[name], found[name], atol=1e-5), name
        assert expected[name].abs().sum() > 0, name


def test_it_trains_from_recordings_and_is_played(tmp_path: Path, tokenizer: CViViT) -> None:
    """On the world of shapes, with keys: the model of the run is steered by them."""
    folder = train_generator(recipe(**{"run.steps": "3"}), tmp_path / "run", tokenizer)
    model = Phenaki.from_pretrained(folder)
    assert model.generator.config.actions == ActionSpec(KEYS, ("button",) * 4)
    world = model.play("a red circle obeys the arrow keys", steps=2)
    world.press("left")
    assert [world.step().shape[0] for _ in range(4)] == [1, 2, 2, 2]


def test_data_without_actions_make_a_generator_without(tmp_path: Path, tokenizer: CViViT) -> None:
    base = recipe(**{"run.steps": "1"})
    plain = replace(base, data=replace(base.data, sources=(SourceConfig("shapes", options={"recordings": True}),)))
    model = Phenaki.from_pretrained(train_generator(plain, tmp_path / "run", tokenizer))
    assert model.generator.config.actions is None


def test_a_bidirectional_model_is_fine_tuned(
    tokenizer: CViViT, text_encoder: WordEncoder, generator: MaskedTransformer
) -> None:
    init = Components(generator, tokenizer, text_encoder)
    inputs = open_inputs(recipe().data, recipe().text, tokenizer, None)
    networks = build_networks(recipe(), inputs)
    initialize_from(networks, init)
    assert torch.equal(networks["generator"].head.weight, generator.head.weight)
    assert all(
        torch.equal(own, given)
        for own, given in zip(
            networks["text_encoder"].state_dict().values(), text_encoder.state_dict().values(), strict=True
        )
    )
    again = build_networks(recipe(), inputs)
    initialize_from(again, Components(networks["generator"], tokenizer, text_encoder))
    assert torch.equal(again["generator"].actions.weight, networks["generator"].actions.weight)
    wider = build_networks(recipe(**{"generator.width": "128"}), inputs)
    with pytest.raises(PhenakiError, match="generator of the model to begin with has other sizes"):
        initialize_from(wider, init)


def test_critics_are_refused(tmp_path: Path, tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match="critics score whole clips"):
        train_generator(recipe(**{"critic.kind": "self"}), tmp_path / "run", tokenizer)


@pytest.mark.parametrize("over", ["text", "both"])
def test_guidance_is_distilled(tmp_path: Path, tokenizer: CViViT, over: Over) -> None:
    """A student of the teacher's weights moves from the conditional logits towards the guided ones."""
    teacher = Phenaki.from_pretrained(train_generator(recipe(**{"run.steps": "30"}), tmp_path / "base", tokenizer))
    teacher = teacher.components
    options = {"loss.distilled_guidance": "4", "run.steps": "40", "optimizer.lr": "1e-3", "loss.text_drop": "0"}
    options["loss.distilled_over"] = over
    folder = train_generator(recipe(**options), tmp_path / "run", tokenizer, init=teacher)
    student = Phenaki.from_pretrained(folder).components
    ids = torch.randint(125, (4, 5, 4, 4), generator=rng(1))
    masks = draw_frame_masks((5, 4, 4), torch.zeros(4).bool(), 3, rng())
    tokens = teacher.text_encoder.tokenize(["a red circle", "a blue square", "a green star", "a large ring"])
    (batch,) = make_micro_batches(ids, tokens, masks, torch.zeros(4).bool(), clean=ids, actions=torch.zeros(4, 5, 8))

    def distribution(model: Components, scale: float) -> torch.Tensor:
        return cfg_logits(model, batch, scale, over).softmax(-1)

    target, before, after = distribution(teacher, 4.0), distribution(teacher, 1.0), distribution(student, 1.0)
    assert (after - target).abs().sum() < 0.9 * (before - target).abs().sum()


def test_a_teacher_is_needed_and_stays_the_same(
    tmp_path: Path, tokenizer: CViViT, generator: MaskedTransformer
) -> None:
    distilled = recipe(**{"loss.distilled_guidance": "2", "run.steps": "1"})
    text_encoder = WordEncoder(distilled.text)
    for init in (None, Components(generator, tokenizer, text_encoder)):
        with pytest.raises(PhenakiError, match="loss.distilled_guidance 2.0 takes its targets"):
            train_generator(distilled, tmp_path / "run", tokenizer, init=init)
    sizes = distilled.generator.config(tokenizer.spec, 64, ActionSpec(KEYS, ("button",) * 4))
    teachers = [Components(CausalTransformer(sizes), tokenizer, text_encoder) for _ in range(2)]
    train_generator(distilled, tmp_path / "run", tokenizer, init=teachers[0])
    with pytest.raises(PhenakiError, match="teacher"):
        train_generator(distilled, tmp_path / "run", tokenizer, init=teachers[1], resume="must")


def test_guidance_over_actions_needs_some(tmp_path: Path, tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match="distilled_over 'both' has no effect at distilled_guidance 0"):
        recipe(**{"loss.distilled_over": "both"})
    recipe(**{"loss.distilled_over": "both", "loss.distilled_guidance": "2"})
    guided = recipe(**{"sampling.guidance.over": "actions"})
    source = SourceConfig("shapes", options={"recordings": True})
    actionless = replace(guided, data=replace(guided.data, sources=(source,)))
    with pytest.raises(PhenakiError, match="guidance_over 'actions' needs a causal model that takes actions"):
        train_generator(actionless, tmp_path / "run", tokenizer)


def test_ids_of_recordings_train_causal_generators_alone(tmp_path: Path, tokenizer: CViViT) -> None:
    """Recordings of 25 frames, of which clips of up to 13 are taken anywhere, with their actions and captions."""
    ids, causal = tmp_path / "ids", recipe(**{"run.steps": "2", "data.batch": "2"})
    tokenize(TokenizeConfig(causal.data.sources[0], frames=25, samples=3), str(ids), tokenizer)
    description = json.loads((ids / "tokens.json").read_text())
    (ids / "tokens.json").write_text(json.dumps(description | {"frames": 0}))
    causal = replace(causal, data=replace(causal.data, sources=(SourceConfig(str(ids)),)))
    model = Phenaki.from_pretrained(train_generator(causal, tmp_path / "run", tokenizer))
    assert model.generator.config.actions.names == KEYS
    masked = replace(GENERATOR_RECIPES["masked_debug"](), data=replace(causal.data, lengths=(1, 5)))
    with pytest.raises(PhenakiError, match="holds the ids of whole recordings.*train a causal generator"):
        train_generator(masked, tmp_path / "masked", tokenizer)
    assert not (tmp_path / "masked").exists()


def test_several_ids_of_a_patch_are_tokenized_trained_on_and_played(tmp_path: Path) -> None:
    quantizer = QuantizerConfig(levels=(4, 4, 4, 4), num_codebooks=2)
    sizes = replace(cvivit_debug().tokenizer, quantizer=quantizer)
    tokenizer, ids = CViViT(sizes).eval(), tmp_path / "ids"
    causal = recipe(**{"run.steps": "1", "run.eval_every": "1"})
    tokenize(TokenizeConfig(causal.data.sources[0], frames=25, samples=3), str(ids), tokenizer)
    causal = replace(causal, data=replace(causal.data, sources=(SourceConfig(str(ids)),)))
    model = Phenaki.from_pretrained(train_generator(causal, tmp_path / "run", tokenizer))
    assert model.generator.config.tokenizer.num_codebooks == 2 and model.generator.mask_id == 16
    world = model.play("a large star", seed=0, steps=2)
    world.press("left")
    assert [world.step().shape for _ in range(3)] == [(n, 32, 32, 3) for n in (1, 2, 2)]
