"""A video that is steered while it runs, and rollouts of a causal generator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from phenaki.conditioning import WordEncoder
from phenaki.core.actions import ActionSpec
from phenaki.core.errors import PhenakiError
from phenaki.generators import CausalTransformer, CausalTransformerSizes, Components, Condition, MaskedTransformer
from phenaki.media.convert import to_uint8
from phenaki.pipeline import LiveWorld, Phenaki
from phenaki.pipeline.world import Event, step_together
from phenaki.sampling.causal import CausalRollout
from phenaki.sampling.causal import step_together as rollouts_together
from phenaki.tokenizers import CViViT

SPEC = ActionSpec(("left", "right", "mouse", "throttle"), ("button", "button", "relative", "level"))
PROMPT = "a red circle"


def make_model(
    tokenizer: CViViT, text_encoder: WordEncoder, actions: ActionSpec | None = SPEC, **sizes: int
) -> Phenaki:
    torch.manual_seed(0)
    sizes = CausalTransformerSizes(**{"frames": 21, "width": 64, "layers": 2, "window": 3} | sizes)
    generator = CausalTransformer(sizes.config(tokenizer.spec, text_encoder.width, actions))
    return Phenaki(Components(generator, tokenizer, text_encoder))


@pytest.fixture
def model(tokenizer: CViViT, text_encoder: WordEncoder) -> Phenaki:
    return make_model(tokenizer, text_encoder)


def play(model: Phenaki, **options: object) -> LiveWorld:
    return model.play(PROMPT, **{"seed": 3, "steps": 2} | options)


def test_a_step_makes_the_frames_of_one_latent_frame(model: Phenaki) -> None:
    world = play(model)
    frames = [world.step(), *(next(world) for _ in range(3))]
    assert [clip.shape for clip in frames] == [(1, 32, 32, 3)] + [(2, 32, 32, 3)] * 3
    assert all(clip.dtype == np.uint8 for clip in frames) and world.latent_frames == 4


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("sinks", [0, 1])
def test_a_recorded_session_comes_again(tokenizer: CViViT, text_encoder: WordEncoder, scale: float, sinks: int) -> None:
    model = make_model(tokenizer, text_encoder, sinks=sinks)
    world, frames = play(model, guidance_scale=scale), []
    doings: dict[int, list[Callable[[], None]]] = {
        2: [lambda: world.press("left"), lambda: world.move("mouse", 0.5)],
        4: [lambda: world.say("a green square")],
        6: [lambda: world.release("left"), lambda: world.move("throttle", 0.7)],
    }
    for number in range(9):
        for do in doings.get(number, []):
            do()
        frames.append(world.step())
    assert [event.latent_frame for event in world.events] == [2, 2, 4, 6, 6]
    again = play(model, guidance_scale=scale, events=world.events)
    assert all(np.array_equal(again.step(), clip) for clip in frames)
    assert again.prompt == "a green square" and again.events == world.events


def test_adjusted_sampling_comes_again(model: Phenaki) -> None:
    """Guidance that begins or ends changes the branches of the cache."""
    world, frames = play(model), []
    for number in range(8):
        if number in (2, 5):
            world.adjust("guidance_scale", 1.0 if number == 2 else 2.5)
            world.adjust("steps", 3)
        frames.append(world.step())
        if number == 4:
            state = world.state()
    again, resumed, plain = play(model, events=world.events), play(model), play(model)
    assert all(np.array_equal(again.step(), clip) for clip in frames)
    assert not all(np.array_equal(plain.step(), clip) for clip in frames)
    resumed.restore(state)
    resumed.adjust("guidance_scale", 2.5)
    assert all(np.array_equal(resumed.step(), clip) for clip in frames[5:])


def test_a_picture_is_continued(model: Phenaki, tokenizer: CViViT, text_encoder: WordEncoder) -> None:
    start, other = torch.rand(2, 1, 3, 1, 32, 32)
    torch.nn.init.normal_(model.generator.actions.weight)
    frames = {name: play(model, start=clip).step() for name, clip in (("a", start), ("again", start), ("b", other))}
    assert frames["a"].shape == (2, 32, 32, 3)
    assert np.array_equal(frames["a"], frames["again"]) and not np.array_equal(frames["a"], frames["b"])
    world = play(model, start=start)
    world.press("left")  # a row acts between the picture and the first frame
    assert not np.array_equal(world.step(), frames["a"])


@pytest.mark.parametrize("start", [None, torch.full((1, 3, 1, 32, 32), 0.5)])
def test_a_bidirectional_model_plays_scene_by_scene(
    tokenizer: CViViT, text_encoder: WordEncoder, generator: MaskedTransformer, start: torch.Tensor | None
) -> None:
    model = Phenaki(Components(generator, tokenizer, text_encoder))
    world = play(model, start=start, prime_frames=1)
    frames = [world.step()]
    world.say("a green square")
    world.adjust("guidance_scale", 2.0)
    frames += [world.step() for _ in range(2)]
    assert [len(clip) for clip in frames] == [11 if start is None else 10, 10, 10]
    assert [event.latent_frame for event in world.events] == [world.latent_frames - 10] * 2
    again = play(model, start=start, prime_frames=1, events=world.events)
    assert all(np.array_equal(again.step(), clip) for clip in frames)
    unchanged = play(model, start=start, prime_frames=1)
    assert np.array_equal(unchanged.step(), frames[0]) and not np.array_equal(unchanged.step(), frames[1])


def test_a_state_goes_on_with_the_same_frames(model: Phenaki) -> None:
    world = play(model)
    world.press("right")
    for _ in range(5):
        world.step()
    world.move("mouse", 1.0)
    state = world.state()
    frames = [world.step() for _ in range(4)]
    for other in (world, play(model, seed=8)):
        other.restore(state)
        assert all(np.array_equal(other.step(), clip) for clip in frames)


def test_a_state_is_kept_as_safetensors_and_json(model: Phenaki) -> None:
    world = play(model)
    for _ in range(4):
        world.step()
    state = world.state()
    tensors, rest = save(state.pop("tensors")), json.dumps(state)
    frames, other = world.step(), play(model, seed=8)
    other.restore(json.loads(rest) | {"tensors": load(tensors)})
    assert np.array_equal(other.step(), frames)


def test_a_damaged_state_changes_nothing(model: Phenaki) -> None:
    world, other = play(model), play(model)
    for _ in range(4):
        world.step()
        other.step()
    state = play(model, seed=8).state() | {"prompt": PROMPT}
    tensors = state["tensors"]
    for damaged in (
        None,
        {},
        {name: value for name, value in state.items() if name != "held"},
        state | {"prompt": "a green square"},
        state | {"events": [{"kind": "say"}]},
        state | {"tensors": {name: tensor for name, tensor in tensors.items() if name != "rng"}},
        state | {"tensors": tensors | {"rng": tensors["rng"] + 1}},
        state | {"tensors": None},
    ):
        with pytest.raises(PhenakiError, match="this state is incomplete or damaged"):
            world.restore(damaged)
    assert np.array_equal(world.step(), other.step())


def test_a_state_of_another_version_is_refused(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    state = play(model).state()
    monkeypatch.setattr("phenaki.pipeline.world.__version__", "9.9.9")
    with pytest.raises(PhenakiError, match="this state is of another version"):
        play(model).restore(state)


def test_events_may_come_in_any_order(model: Phenaki) -> None:
    events = [Event(3, "press", "left"), Event(1, "say", "a green square")]
    world = play(model, events=events)
    for _ in range(5):
        world.step()
    assert world.events == events[::-1]


def test_actions_and_prompts_change_what_follows(model: Phenaki) -> None:
    torch.nn.init.normal_(model.generator.actions.weight)
    for steer in (lambda w: w.press("left"), lambda w: w.move("mouse", 3.0), lambda w: w.say("a green square")):
        plain, steered = play(model), play(model)
        before = [(plain.step(), steered.step()) for _ in range(2)]
        assert all(np.array_equal(*pair) for pair in before)
        steer(steered)
        assert any(not np.array_equal(plain.step(), steered.step()) for _ in range(3))


def test_what_the_generator_sees_of_actions(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    condition = model.generator.condition

    def watched(text: object, actions: torch.Tensor, *others: object) -> object:
        seen.append(actions.flatten().tolist())
        return condition(text, actions, *others)

    monkeypatch.setattr(model.generator, "condition", watched)
    world = play(model, guidance_scale=1.0)

    def rows() -> list[float]:
        seen.clear()
        world.step()
        assert all(row == seen[0] for row in seen)
        return seen[0]

    world.press("left")
    assert rows() == [0.0] * 8  # no row acts before the first frame
    world.press("right")
    world.release("right")  # a tap
    world.move("mouse", 1.0)
    world.move("mouse", 2.0)
    world.move("throttle", 0.5)
    assert rows() == [1.0, 1.0, 1.5, 0.5] * 2
    assert rows() == [1.0, 0.0, 0.0, 0.5] * 2
    world.release("left")
    assert rows() == [0.0, 0.0, 0.0, 0.5] * 2


def test_mistakes_are_named(
    model: Phenaki, tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder
) -> None:
    world, wider = play(model), make_model(tokenizer, text_encoder, mlp_ratio=2)
    for steer, sentence in (
        (lambda: world.press("lef"), "no button 'lef'.*left, right.*Did you mean 'left'"),
        (lambda: world.press("mouse"), "no button 'mouse'"),
        (lambda: world.move("left", 1.0), "no relative 'left'"),
        (lambda: world.move("mouse", float("nan")), "mouse cannot move by nan"),
        (lambda: world.move("mouse", "far"), "mouse cannot move by 'far'"),
        (lambda: world.move("mouse", 1e38), "give a number from -1,000,000 to 1,000,000"),
        (lambda: world.press(3), "no button '3'"),
        (lambda: play(model, events=[Event(0, "jump", "left")]).step(), "no event 'jump': there are say, press"),
        (lambda: world.restore(play(model, guidance_scale=1.0).state()), "this state is of another sampling"),
        (lambda: world.say(3), "a prompt is text, not 3"),
        (lambda: world.restore(play(wider, steps=2).state()), "this state is of another model"),
        (lambda: play(make_model(tokenizer, text_encoder, None)).press("left"), "trained without actions"),
        (
            lambda: play(Phenaki(Components(generator, tokenizer, text_encoder))).press("left"),
            "no action 'left': a bidirectional model writes whole scenes",
        ),
        (lambda: world.adjust("step", 2), "'step' cannot be adjusted.*Did you mean 'steps'"),
        (lambda: world.adjust("steps", 0), "steps 0.*at least 1"),
        (lambda: world.adjust("temperature", "hot"), "temperature 'hot': give a number"),
        (lambda: model.play(PROMPT, seed=-1), "seed -1"),
    ):
        with pytest.raises(PhenakiError, match=sentence):
            steer()
    assert world.events == []


def test_without_actions_it_is_steered_by_words(tokenizer: CViViT, text_encoder: WordEncoder) -> None:
    world = play(make_model(tokenizer, text_encoder, None))
    world.step()
    world.say("a green square")
    assert world.step().shape == (2, 32, 32, 3)


def test_a_story_is_one_video_without_a_seam(model: Phenaki) -> None:
    """Scenes of any length; the frames are those of a world that hears the same prompts."""
    story = model.generate([PROMPT, "a green square"], frames=[9, 31], seed=3, steps=2)
    world = play(model)
    frames = [world.step() for _ in range(5)]
    world.say("a green square")
    frames += [world.step() for _ in range(15)]
    assert np.array_equal(to_uint8(story.video)[0], np.concatenate(frames))


def test_a_video_is_continued(model: Phenaki) -> None:
    start = torch.rand(1, 3, 8, 32, 32)
    longer = model.extend(start, PROMPT, frames=5, steps=2)
    assert longer.video.shape[2] == 8 + 4 and torch.equal(longer.video[:, :, :8], start)
    other = model.extend(torch.rand(1, 3, 8, 32, 32), PROMPT, frames=5, steps=2)
    assert not torch.equal(longer.video[:, :, 8:], other.video[:, :, 8:])


def test_a_rollout_goes_on_from_its_state(model: Phenaki) -> None:
    scenes = [model.scene(PROMPT, 5, first=True), model.scene("a green square", 7)]
    for start in (None, torch.rand(1, 3, 5, 32, 32)):
        video = model.rollout(seed=1, steps=2, start=start)
        parts, states = [], []
        for scene in scenes if start is None else scenes[1:]:
            states.append(video.state())
            parts.append(torch.cat(list(video.generate(scene)), dim=2))
        resumed = model.rollout(seed=9, steps=2)
        resumed.restore(states[-1])
        assert torch.equal(torch.cat(list(resumed.generate(scenes[1])), dim=2), parts[-1])


def test_what_recomputing_the_cache_changes(model: Phenaki) -> None:
    """The keys of the first layer do not depend on text or on what came before the window, those of the second do."""
    rollout, (text, other) = model.rollout(seed=1, steps=2), (model.components.encode_text(t, 1) for t in (PROMPT, "b"))
    for _ in range(6):
        rollout.step(text, torch.zeros(1, 8))
    states = [rollout.cache.state()]
    for prompt in (text, text, other):
        rollout.recompute(prompt)
        states.append(rollout.cache.state())

    def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        return {
            name.split(".")[1] for name in before if name != "frames" and not torch.equal(before[name], after[name])
        }

    assert [changed(*pair) for pair in pairwise(states)] == [{"1"}, set(), {"1"}]  # numbers of layers


def test_a_new_prompt_may_recompute_the_window(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, recompute = [], CausalRollout.recompute
    monkeypatch.setattr(CausalRollout, "recompute", lambda self, text: calls.append(text) or recompute(self, text))
    frames = []
    for option in (False, True):
        model.sampling = replace(model.sampling, rollout=replace(model.sampling.rollout, recompute=option))
        world = play(model)
        for number in range(7):
            if number in (3, 4):
                world.say(PROMPT if number == 3 else "a green square")
            clip = world.step()
        frames.append(clip)
        again = play(model, events=world.events)
        assert np.array_equal([again.step() for _ in range(7)][-1], clip)
    assert len(calls) == 2  # of the world and its replay: the same prompt again is not new
    assert not np.array_equal(*frames)


@pytest.mark.parametrize(("scale", "sinks", "order"), [(1.0, 0, "confidence"), (2.0, 1, "random")])
def test_rollouts_in_one_batch_get_the_ids_that_each_gets_alone(
    tokenizer: CViViT, text_encoder: WordEncoder, scale: float, sinks: int, order: str
) -> None:
    """In float64, where rounding decides nothing: with texts and actions of their own, and coming and going."""
    model = make_model(tokenizer, text_encoder, sinks=sinks)
    torch.nn.init.normal_(model.generator.actions.weight)
    texts = [model.components.encode_text(prompt, 1) for prompt in (PROMPT, "a large green square moves", "b")]
    texts = [text._replace(embeddings=text.embeddings.double()) for text in texts]
    model.generator.double()
    actions = torch.rand(9, 3, 1, 8, generator=torch.Generator().manual_seed(0)).double()
    sampling = model.sampling.with_options({"steps": 3, "guidance_scale": scale, "order": order})
    present = [(0, 1), (0, 1, 2), (0, 1, 2), (0, 2), (0, 2), (0, 1, 2), (0, 1, 2), (2,), (0, 1, 2)]

    def ids(together: bool) -> list[list[torch.Tensor]]:
        rollouts = [CausalRollout(model.components, sampling, torch.Generator().manual_seed(n)) for n in range(3)]
        found: list[list[torch.Tensor]] = [[], [], []]
        for step, numbers in enumerate(present):
            keys = [rollouts[n].batch_key if together else n for n in numbers]
            sizes.append(len(numbers) - len(set(keys)))
            for key in set(keys):
                batch = [n for n, own in zip(numbers, keys, strict=True) if own == key]
                rows = [actions[step, n] for n in batch]
                rollouts_together([rollouts[n] for n in batch], [texts[n] for n in batch], rows)
                for n in batch:
                    found[n].append(rollouts[n].last.ids)
        return found

    sizes: list[int] = []
    for one, other in zip(ids(True), ids(False), strict=True):
        assert torch.equal(torch.cat(one), torch.cat(other))
    assert sum(sizes) >= 8  # many were in one batch


class OwnCondition(Condition):
    """A condition of another generator, which knows how to join its own."""

    @staticmethod
    def concatenate(conditions: Sequence[Condition]) -> OwnCondition:
        return OwnCondition(**vars(Condition.concatenate(conditions)))


def test_a_rollout_joins_conditions_by_their_own_class(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, seen = model.generator, []
    condition, features, commit = generator.condition, generator.features, generator.commit

    def spied_features(ids: torch.Tensor, condition: Condition, *rest: object, **options: object) -> torch.Tensor:
        seen.append(type(condition))
        return features(ids, condition, *rest, **options)

    def spied_commit(ids: torch.Tensor, condition: Condition, *rest: object, **options: object) -> None:
        seen.append(type(condition))
        commit(ids, condition, *rest, **options)

    monkeypatch.setattr(generator, "condition", lambda *inputs: OwnCondition(**vars(condition(*inputs))))
    monkeypatch.setattr(generator, "features", spied_features)
    monkeypatch.setattr(generator, "commit", spied_commit)
    one, other = play(model, guidance_scale=2.0), play(model, guidance_scale=2.0)
    for _ in range(3):
        step_together([one, other])
    one.rollout.recompute(one.rollout.last.text)
    assert len(seen) > 8 and set(seen) == {OwnCondition}


def test_worlds_that_step_together_have_frames_of_their_own(model: Phenaki) -> None:
    """A first frame beside later ones, other sampling, and a state in the middle."""
    worlds, alone = ([play(model), play(model), play(model, steps=3), play(model, seed=4)] for _ in range(2))
    for several in (worlds, alone):
        for world in several[:2]:
            world.step()
        several[1].step()
    frames = step_together(worlds)
    assert [len(clip) for clip in frames] == [2, 2, 1, 1]
    assert all(np.array_equal(clip, world.step()) for clip, world in zip(frames, alone, strict=True))
    twins = [play(model), play(model)]
    for _ in range(3):
        assert np.array_equal(*step_together(twins))
    again = play(model, seed=8)
    again.restore(twins[0].state())
    assert np.array_equal(again.step(), twins[0].step())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_world_goes_on_with_the_weights_of_its_model(model: Phenaki, precision: str) -> None:
    model.to(dtype=precision)
    world = play(model)
    world.step()
    state = world.state()["tensors"]
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / 8)
    other = play(model)
    for each in (world, other):
        each.rollout.restore(state)
    assert np.array_equal(world.step(), other.step())


def test_what_needs_later_frames_is_refused(model: Phenaki) -> None:
    clip = torch.rand(1, 3, 5, 32, 32)
    for edit, sentence in (
        (lambda: model.interpolate(clip, clip, PROMPT), "cannot interpolate: use a bidirectional"),
        (lambda: model.inpaint(clip, torch.ones(32, 32).bool(), PROMPT), "cannot inpaint"),
        (lambda: model.generate(PROMPT, prime_frames=3), "always continues the last 2 latent frames"),
    ):
        with pytest.raises(PhenakiError, match=sentence):
            edit()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
def test_a_compiled_model_plays_the_same(
    tokenizer: CViViT, text_encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced by dynamo; the cache, which outlives a step, grows and then slides."""
    plain = make_model(tokenizer, text_encoder)
    world = play(plain, guidance_scale=2.0)
    expected = [world.step() for _ in range(5)]
    compiled: list[object] = []
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: compiled.append(f) or real(f, **options | {"backend": "eager"})
    )
    world = play(plain.compile(), guidance_scale=2.0)
    found = [world.step() for _ in range(5)]
    assert len(compiled) > 4 and all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
