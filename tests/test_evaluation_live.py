"""The suite "live": a causal generator that is steered while it runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest
import torch

from phenaki.conditioning import Text
from phenaki.core.actions import ActionSpec
from phenaki.core.errors import PhenakiError
from phenaki.evaluation import SUITES, evaluate, report, suites_of
from phenaki.generators import CausalTransformerSizes, Components, MaskedTransformer, build_generator
from phenaki.media.convert import to_float
from phenaki.pipeline import Phenaki
from phenaki.sampling import SamplingConfig
from phenaki.tokenizers import CViViT
from phenaki.worlds.shapes.captions import parse_caption
from phenaki.worlds.shapes.checker import obeyed
from phenaki.worlds.shapes.evaluation import ShapesEval
from phenaki.worlds.shapes.recording import KEYS, steer
from phenaki.worlds.shapes.render import render
from phenaki.worlds.shapes.scene import Scene, SceneObject

live = import_module("phenaki.evaluation.live")  # the package has a function of that name


@pytest.fixture
def model(tokenizer: CViViT, text_encoder: torch.nn.Module) -> Phenaki:
    sizes = CausalTransformerSizes(frames=21, width=64, layers=1, window=3)
    actions = ActionSpec(KEYS, ("button",) * 4)
    return Phenaki(Components(build_generator(sizes, tokenizer.spec, 64, actions), tokenizer, text_encoder))


def moved(key: str, frames: int = 5, held: bool = True, x: float = 32.0) -> np.ndarray:
    scene = Scene((SceneObject("circle", "red", "still", x, 32.0, 9.0),), "black", 1, 64, 64)
    keys = np.tile(np.eye(4, dtype=np.float32)[KEYS.index(key)] * held, (frames - 1, 1))
    return np.concatenate([render(one) for one in (scene, *steer(scene, 0, keys))])


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_obeyed_by_motion_its_way(key: str) -> None:
    assert obeyed(moved(key), key) is True
    assert not any(obeyed(moved(key), other) for other in KEYS if other != key)
    assert obeyed(moved(key, held=False), key) is False
    assert obeyed(np.zeros((5, 64, 64, 3), np.uint8), key) is False


def test_near_the_border_it_cannot_be_told() -> None:
    assert obeyed(moved("left", x=12.0), "left") is None
    assert obeyed(moved("right", x=12.0), "right") is True


class Scripted:
    """In place of a rollout: a circle in the middle, which moves as keys say, or ignores them, or is late."""

    late = 0

    def __init__(self, components: Components, sampling: SamplingConfig, rng: torch.Generator, samples: int) -> None:
        circle = SceneObject("circle", "red", "still", 32.0, 32.0, 9.0)
        self.samples, self.scenes = samples, [Scene((circle,), "black", 1, 64, 64)] * samples
        self.heard, self.begun = [torch.zeros(samples, 8)] * self.late, False

    def step(self, text: Text, actions: torch.Tensor) -> torch.Tensor:
        self.heard.append(actions)
        videos = []
        for sample, rows in enumerate(self.heard.pop(0).view(self.samples, 2, 4).numpy()):
            steps = list(steer(self.scenes[sample], 0, rows if self.begun else rows[:1]))
            videos.append(np.concatenate([render(one) for one in steps]))
            self.scenes[sample] = steps[-1]
        self.begun = True
        return to_float(np.stack(videos))


@pytest.mark.parametrize(("late", "rate"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_keys_are_obeyed_within_two_latent_frames(
    model: Phenaki, monkeypatch: pytest.MonkeyPatch, late: int, rate: float
) -> None:
    monkeypatch.setattr(live, "CausalRollout", Scripted)
    monkeypatch.setattr(Scripted, "late", late)
    found = live._keys(model, ShapesEval((64, 64)), 12, np.random.default_rng(0), lambda _: None)
    assert len(found) == 12 and np.mean(found) == rate


def test_new_prompts_are_heard_at_their_moment(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout that plays the story, with a rest until the new prompt comes, is right; one that rests on is not."""
    world = ShapesEval((64, 64))

    def play(model: Phenaki, length: int, prompts: Callable[[int], tuple[str, ...]], rng: object) -> np.ndarray:
        videos = []
        for sample in range(len(prompts(0))):
            delay = max(latent for latent in range(length + 1) if prompts(latent)[sample] == prompts(0)[sample])
            story = world.world("one_object").story(sample, 2).video
            rest = np.repeat(story[10:11], 2 * delay - 10, axis=0)
            video = np.concatenate([story[:11], rest, story[11 if hears else 0 :]])
            videos.append(np.concatenate([video, np.repeat(video[-1:], 1 + 2 * length, axis=0)])[: 1 + 2 * length])
        return np.stack(videos)

    monkeypatch.setattr(live, "_play", play)
    monkeypatch.setattr(live, "batch_size", lambda model: 12)
    for hears in (True, False):
        good = live.new_prompts(model, world, 12, np.random.default_rng(0), lambda _: None)
        assert good >= 11 if hears else good <= 3


def test_the_suite_of_an_untrained_model(model: Phenaki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phenaki.evaluation.PROMPTS", 20)
    metrics = evaluate(model, ["live"], ShapesEval, quick=True, progress=False)["live"]
    assert metrics["new_prompts"]["rate"] == metrics["drift"] == 0.0 and metrics["keys"]["rate"] < 1
    assert len(metrics["scenes"]["by_position"]) == 10 and metrics["protocol"]["sampling"]["decoding"]["steps"]
    report({"live": metrics})


def test_which_suites_apply(model: Phenaki, tokenizer: CViViT, generator: MaskedTransformer) -> None:
    bidirectional = Phenaki(Components(generator, tokenizer, model.text_encoder))
    assert {*suites_of(model), "actions", "generation"} == set(SUITES) and "live" not in suites_of(bidirectional)
    assert suites_of(model, "my/clips") == ("reconstruction", "generation") and suites_of(tokenizer) == (
        "reconstruction",
    )
    with pytest.raises(PhenakiError, match="steers a causal generator"):
        evaluate(bidirectional, ["live"], ShapesEval, progress=False)


def test_captions_of_objects_under_control() -> None:
    captions = ShapesEval((64, 64)).controlled(20)
    assert len(set(captions)) == 20
    for caption in captions:
        (claims,) = parse_caption(caption).objects
        assert claims.action == "steered" and claims.shape and claims.color and claims.size
