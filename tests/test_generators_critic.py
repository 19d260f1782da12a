"""Critics: what they learn of, what they leave alone, and what sampling asks them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.sampling import sampling_config
from helpers.training import lasting, stop_after, weights
from phenaki.conditioning import Text, WordEncoder
from phenaki.core.components import load_component
from phenaki.core.config import override
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.generators.critic import Critic, CriticConfig, SelfCritic, build_critic
from phenaki.pipeline import Phenaki, load
from phenaki.sampling import critic_scores_fn
from phenaki.tokenizers import CViViT
from phenaki.training import critic as critic_training
from phenaki.training.critic import accuracy, critic_optimizers, score_sampled, train_critic
from phenaki.training.generator import train_generator
from phenaki.training.masking import make_micro_batches
from phenaki.training.recipes import critic_debug, masked_debug

KINDS = ("token", "self")
PROMPTS = ("a red circle", "a blue star moves up")
GRID = (3, 4, 4)


def critic_of(generator: MaskedTransformer, kind: str) -> Critic:
    torch.manual_seed(3)
    return build_critic(CriticConfig(kind, layers=1), generator).eval()


@pytest.fixture(params=KINDS)
def critic(request: pytest.FixtureRequest, generator: MaskedTransformer) -> Critic:
    return critic_of(generator, request.param)


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder, critic: Critic) -> Phenaki:
    return Phenaki(Components(generator, tokenizer, text_encoder, critic), sampling_config(steps=4, prime_frames=3))


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nobody(batch: int) -> torch.Tensor:
    return torch.zeros(batch, dtype=torch.bool)


def batch(generator: MaskedTransformer) -> tuple[torch.Tensor, ...]:
    """ids, masked, free and logits of the masked: the first time step is given."""
    ids = torch.randint(generator.vocab_size, (2, *GRID), generator=random())
    free = torch.ones_like(ids, dtype=torch.bool)
    free[:, 0] = False
    masked = free & (torch.rand(ids.shape, generator=random()) < 0.6)
    return ids, masked, free, torch.randn(int(masked.sum()), generator.vocab_size, generator=random())


# ---- what they learn


def critic_loss(
    critic: Critic,
    generator: MaskedTransformer,
    text: Text,
    dropped: torch.Tensor,
    ids: torch.Tensor,
    masked: torch.Tensor,
    free: torch.Tensor,
    logits: torch.Tensor,
    temperature: float,
    rng: torch.Generator,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    uniform = torch.rand(len(logits), 1, generator=rng)
    (part,) = make_micro_batches(ids, text, (free, masked), dropped, uniform)
    return score_sampled(critic, generator, text, part, logits, temperature)


def test_only_ids_that_were_replaced_by_others_are_false(
    critic: Critic, generator: MaskedTransformer, text_encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second masked id is drawn as it was: it is real, as all that were not masked; given ids do not count."""
    ids, masked, free, logits = batch(generator)
    drawn = ids[masked].clone()
    drawn[::2] = (drawn[::2] + 1) % generator.vocab_size
    logits = torch.nn.functional.one_hot(drawn, generator.vocab_size) * 100.0
    seen: list[torch.Tensor] = []
    loss = critic_training.critic_loss
    monkeypatch.setattr(critic_training, "critic_loss", lambda odds, real: (seen.append(real), loss(odds, real))[1])
    text = text_encoder.encode(PROMPTS)
    critic_loss(critic, generator, text, nobody(2), ids, masked, free, logits, 1.0, random())
    false = torch.zeros_like(masked)
    false[masked] = torch.arange(len(drawn)) % 2 == 0
    assert false.any() and (masked & ~false).any() and (free & ~masked).any()
    assert torch.equal(seen[0], ~false[free])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_ids_to_judge_are_drawn_at_the_temperature(
    temperature: float, critic: Critic, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    ids, masked, free, logits = batch(generator)
    seen: list[torch.Tensor] = []
    trunk = generator if isinstance(critic, SelfCritic) else critic
    features = trunk.features
    trunk.features = lambda filled, *rest: (seen.append(filled), features(filled, *rest))[1]
    for seed in (0, 1):
        told = text_encoder.encode(PROMPTS), nobody(2), ids, masked, free, logits
        critic_loss(critic, generator, *told, temperature, random(seed))
    assert all(torch.equal(filled[~masked], ids[~masked]) for filled in seen)
    assert torch.equal(*seen) == (temperature == 0)
    if temperature == 0:
        assert torch.equal(seen[0][masked], logits.argmax(-1))


def test_a_token_critic_teaches_no_one_but_itself(generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    critic = critic_of(generator, "token")
    ids, masked, free, logits = batch(generator)
    logits.requires_grad_()
    told = text_encoder.encode(PROMPTS), nobody(2), ids, masked, free, logits
    critic_loss(critic, generator, *told, 1.0, random())[0].backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())
    for other in (*generator.parameters(), *text_encoder.parameters(), logits):
        assert other.grad is None


def test_a_self_critic_teaches_the_generators_features_and_not_its_logits(
    generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    critic = critic_of(generator, "self")
    ids, masked, free, logits = batch(generator)
    logits.requires_grad_()
    told = text_encoder.encode(PROMPTS), nobody(2), ids, masked, free, logits
    critic_loss(critic, generator, *told, 1.0, random())[0].backward()
    assert logits.grad is None and generator.head.weight.grad is None
    for taught in (*critic.parameters(), *generator.layers.parameters(), *text_encoder.parameters()):
        assert taught.grad is not None


def test_critics_learn_to_tell_and_the_optimizer_is_their_own(
    critic: Critic, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    """Of ids of which the real ones are all alike."""
    generator.requires_grad_(False)
    recipe = override(critic_debug(), ["critic.lr=0.02", "optimizer.warmup_steps=0", "run.steps=60"])
    optimizers = critic_optimizers(critic, recipe)
    assert {id(p) for p in optimizers.parameters} == {id(p) for p in critic.parameters()}
    assert optimizers.lr(0) == 0.02
    ids, masked, free, logits = batch(generator)
    text = Text(*(part.detach() for part in text_encoder.encode(PROMPTS)[:2]))
    for step in range(60):
        told = text, nobody(2), ids.fill_(7), masked, free, logits.zero_()
        loss, scored = critic_loss(critic, generator, *told, 1.0, random(step))
        loss.backward()
        optimizers.update(step)
        if not step:
            assert accuracy(**scored) < 0.9
    assert accuracy(**scored) > 0.95


def test_accuracy_is_that_of_both_kinds() -> None:
    odds, real = torch.tensor([3.0, 3.0, 3.0, 3.0]), torch.tensor([True, True, True, False])
    assert accuracy(odds, real) == 0.5
    assert accuracy(-odds, real) == 0.5
    assert accuracy(torch.where(real, odds, -odds), real) == 1
    assert accuracy(odds[:3], real[:3]) == 1


# ---- training


def trained(folder: Path, tokenizer: CViViT, kind: str, steps: int = 4) -> dict[str, torch.Tensor]:
    recipe = override(lasting(masked_debug(), steps), [f"critic.kind={kind}", "critic.layers=1"])
    train_generator(recipe, folder, tokenizer)
    return weights(folder)


def test_a_generator_learns_the_same_beside_a_token_critic_and_another_beside_its_own(
    tmp_path: Path, tokenizer: CViViT
) -> None:
    none, token, own = (trained(tmp_path / kind, tokenizer, kind) for kind in ("none", *KINDS))
    assert not any("critic" in name for name in none)
    assert all(torch.equal(value, token[name]) for name, value in none.items() if not name.startswith(".data"))
    assert any(not torch.equal(value, own[name]) for name, value in none.items() if name.startswith(".generator."))
    for kind, after in zip(KINDS, (token, own), strict=True):
        assert {".critic_ema", ".critic_optimizers"} <= {f".{name.split('.')[1]}" for name in after}
        lines = [json.loads(line) for line in (tmp_path / kind / "metrics.jsonl").read_text().splitlines()]
        assert {"critic_loss", "critic_accuracy", "critic_grad_norm", "loss"} <= lines[0].keys()
        loaded = Phenaki.from_pretrained(tmp_path / kind / "model")
        assert torch.equal(loaded.critic.head.weight, after[".critic_ema.module.head.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_resumed_equals_uninterrupted(
    kind: str, tmp_path: Path, tokenizer: CViViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", tokenizer, kind)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        trained(tmp_path / "parts", tokenizer, kind)
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    parts = trained(tmp_path / "parts", tokenizer, kind)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_for_a_trained_model_leaves_it_as_it_was(
    kind: str, tmp_path: Path, tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    parts = {"tokenizer": tokenizer, "generator": generator, "text_encoder": text_encoder}
    before = {name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in parts.items()}
    model = Phenaki(Components(**parts), sampling_config(steps=2, prime_frames=1))
    recipe = lasting(override(critic_debug(), [f"critic.kind={kind}", "data.lengths=[1,11]"]), 3)
    folder = train_critic(recipe, tmp_path / "run", model)
    loaded = Phenaki.from_pretrained(folder)
    for name, state in before.items():
        found = getattr(loaded, name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())
    assert loaded.sampling == model.sampling
    critic = weights(tmp_path / "run")
    assert any(
        not torch.equal(critic[name], critic[name.replace("_ema.module", "")]) for name in critic if "_ema" in name
    )
    other = MaskedTransformer(replace(generator.config, mlp_ratio=2))
    with pytest.raises(PhenakiError, match="builds on another generator"):
        train_critic(recipe, tmp_path / "run", Phenaki(Components(other, tokenizer, text_encoder)))


def test_the_weight_of_a_critic_scales_its_gradients(model: Phenaki, tmp_path: Path) -> None:
    norms = []
    for weight in (1, 4):
        changes = [f"critic.weight={weight}", "data.lengths=[1,11]", "run.log_every=1"]
        train_critic(lasting(override(critic_debug(), changes), 1), tmp_path / str(weight), model)
        norms.append(json.loads((tmp_path / str(weight) / "metrics.jsonl").read_text().splitlines()[0])["grad_norm"])
    assert norms[0] > 0 and norms[1] == pytest.approx(4 * norms[0], rel=1e-3)


def test_what_a_critic_could_not_follow_is_refused(model: Phenaki, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="data.lengths"):
        train_critic(override(critic_debug(), ["data.lengths=[1,9]"]), tmp_path / "run", model)


def test_impossible_settings_are_refused(tmp_path: Path, tokenizer: CViViT) -> None:
    for change, said in (
        ("critic.weight=-1", "critic.weight -1"),
        ("critic.temperature=-0.5", "critic.temperature -0.5"),
        ("critic.lr=0", "critic.lr 0.0 must be above 0"),
        ("critic.lr=.nan", "critic.lr nan must be finite"),
        ("critic.layers=0", "critic.layers 0 must be at least 1"),
        ("critic.kind=tokne", "Did you mean 'token'"),
        ("critic.kind=none", "nothing to train"),
    ):
        with pytest.raises(PhenakiError, match=said):
            override(critic_debug(), [change])
    recipe = override(masked_debug(), ["sampling.decoding.order=critic"])
    with pytest.raises(PhenakiError, match="needs a critic"):
        train_generator(recipe, tmp_path / "run", tokenizer)


# ---- sampling


def test_scores_depend_on_the_prompt_of_each_sample_alone(
    critic: Critic, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    text = text_encoder.encode(PROMPTS)
    ids = batch(generator)[0]
    components = Components(generator, critic=critic)
    both = critic_scores_fn(components, text)(ids)
    assert both.shape == ids.shape and both.dtype == torch.float32
    second = Text(text.embeddings[1:], text.mask[1:])
    assert torch.allclose(both[1:], critic_scores_fn(components, second)(ids[1:]), atol=0.02)
    swapped = Text(text.embeddings.flip(0), text.mask.flip(0))
    assert not torch.allclose(both, critic_scores_fn(components, swapped)(ids), atol=1e-4)
    dropped, other = (
        critic.scores(generator, ids, critic.condition_on(generator, each, ~nobody(2))) for each in (text, swapped)
    )
    assert torch.allclose(dropped, other, atol=1e-5)
    assert critic_scores_fn(Components(generator), text) is None


def test_a_model_asks_its_critic_in_all_that_it_makes(model: Phenaki) -> None:
    asked: list[torch.Tensor] = []
    model.critic.head.register_forward_hook(lambda *call: asked.append(call[-1]))
    video, mask = torch.rand(1, 3, 3, 32, 32), torch.ones(32, 32, dtype=torch.bool)

    def made(order: str) -> list[torch.Tensor]:
        options = {"order": order, "seed": 1}
        return [
            model.generate("a", frames=3, **options).video,
            model.extend(video, "a", frames=3, **options).video,
            model.interpolate(video, video[:, :, :1], "a", frames=7, **options).video,
            model.inpaint(video, mask, "a", **options).video,
        ]

    plain = made("confidence")
    assert not asked
    critical = made("critic")
    assert len(asked) == 4 * len(critical)
    assert any(not torch.equal(*pair) for pair in zip(plain, critical, strict=True))
    assert all(torch.equal(*pair) for pair in zip(critical, made("critic"), strict=True))


def test_the_order_of_a_critic_is_refused_without_one_before_any_work(
    tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Phenaki(Components(generator, tokenizer, text_encoder))
    monkeypatch.setattr("phenaki.pipeline.model.rollout", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(PhenakiError, match="needs a critic.* confidence, random, halton"):
        model.generate("a", order="critic")


# ---- folders


def test_a_critic_comes_back_from_its_folder(model: Phenaki, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model", torch.float16)
    found, alone = Phenaki.from_pretrained(tmp_path / "model").critic, load(tmp_path / "model" / "critic")
    for other in (found, alone, load_component(tmp_path / "model" / "critic", "critic")):
        assert type(other) is type(model.critic) and other.config == model.critic.config
        for name, value in model.critic.state_dict().items():
            assert torch.equal(other.state_dict()[name], value.half().float())


def test_a_model_without_a_critic_is_saved_over_one_that_has_it(model: Phenaki, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    Phenaki(Components(model.generator, model.tokenizer, model.text_encoder)).save_pretrained(tmp_path / "model")
    assert Phenaki.from_pretrained(tmp_path / "model").critic is None


def test_a_folder_with_another_critic_or_without_it_is_refused(
    model: Phenaki, generator: MaskedTransformer, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    torch.nn.init.ones_(model.critic.head.bias)
    model.save_pretrained(tmp_path / "other")
    shutil.rmtree(folder / "critic")
    with pytest.raises(PhenakiError, match="holds no critic/.* put back"):
        Phenaki.from_pretrained(folder)
    shutil.copytree(tmp_path / "other" / "critic", folder / "critic")
    with pytest.raises(PhenakiError, match="or another one than model.json names"):
        Phenaki.from_pretrained(folder)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"critic": ""}))
    assert Phenaki.from_pretrained(folder).critic is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_for_another_generator_is_refused(
    kind: str, tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    sizes = MaskedTransformerSizes(frames=11, width=128, layers=1)
    other = MaskedTransformer(sizes.config(replace(tokenizer.spec, vocab_size=9), text_encoder.width))
    with pytest.raises(PhenakiError, match="width 128, and this one has 64" if kind == "self" else "vocab_size=9"):
        Components(generator, tokenizer, text_encoder, critic_of(other, kind))
