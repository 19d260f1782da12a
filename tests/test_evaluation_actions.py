"""Inverse dynamics: a network learns which buttons were pressed, and the suite "actions" scores a generator with it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from phenaki.conditioning import Text
from phenaki.core.actions import ActionSpec
from phenaki.core.components import load_component
from phenaki.core.config import override
from phenaki.core.errors import PhenakiError
from phenaki.data.config import SourceConfig
from phenaki.evaluation import evaluate, report, suites_of
from phenaki.evaluation.inverse_dynamics import InverseDynamics, InverseDynamicsConfig, button_rates
from phenaki.generators import CausalTransformerSizes, Components, build_generator
from phenaki.media.writer import write_video
from phenaki.pipeline import Phenaki
from phenaki.sampling import SamplingConfig
from phenaki.tokenizers import CViViT
from phenaki.training.inverse_dynamics import InverseDynamicsRecipe, corrupt, train_inverse_dynamics
from phenaki.training.recipes import inverse_dynamics_debug

suite = import_module("phenaki.evaluation.actions")  # the package has a function of that name
NAMES = ("left", "right")


def frames_of(table: np.ndarray, rng: np.random.Generator, size: int = 16) -> np.ndarray:
    """A stripe that moves by two pixels as the keys of the table (T, 2) say, over a still pattern: (T, H, W, 3)."""
    background = rng.integers(0, 90, (size, size, 3))
    position, frames = size // 2, []
    for left, right in table:
        position = (position + 2 * int(right) - 2 * int(left)) % size
        frame = background.copy()
        frame[:, position : position + 2] = 230
        frames.append(frame.astype(np.uint8))
    return np.stack(frames)


def keys(length: int, rng: np.random.Generator) -> np.ndarray:
    table = np.eye(3, 2, dtype=np.uint8)[rng.integers(0, 3, length)]
    table[0] = 0
    return table


def test_the_place_that_a_picture_moved_to_is_likest() -> None:
    network = InverseDynamics(InverseDynamicsConfig(("left",), (48, 64)))
    before = torch.randn(2, 8, 12, 16)
    after = torch.stack([before[0].roll((1, -4), (1, 2)), before[1].roll(3, 2)])
    likest = network._moved(before, after)[:, :, 1:-1, 6:-6].argmax(1)
    columns = 2 * network.reach[1] + 1
    assert network.reach == [1, 6]
    assert (likest[0] == 2 * columns + 2).all() and (likest[1] == columns + 9).all()  # down 1, across -4; across 3


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for number in range(22):
        table = keys(24, rng)
        write_video(folder / f"{number:02d}.mp4", frames_of(table, rng), fps=8)
        np.save(folder / f"{number:02d}.actions.npy", table)
        (folder / f"{number:02d}.txt").write_text("a stripe")
    (folder / "dataset.json").write_text(json.dumps({"actions": {"names": NAMES, "kinds": ["button"] * 2}}))
    return folder


def recipe_for(folder: Path, *changes: str) -> InverseDynamicsRecipe:
    recipe = inverse_dynamics_debug()
    data = replace(recipe.data, sources=(SourceConfig(str(folder)),), size=16)
    return override(replace(recipe, data=data), ["optimizer.warmup_steps=5", "run.precision=float32", *changes])


def test_it_learns_which_buttons_were_pressed(recordings: Path, tmp_path: Path) -> None:
    recipe = recipe_for(recordings, "run.steps=120", "run.eval_every=120", "data.batch=12", "optimizer.lr=3e-3")
    network = load_component(train_inverse_dynamics(recipe, tmp_path / "run"), "inverse_dynamics")
    assert network.config.buttons == NAMES and network.config.size == (16, 16)
    rng = np.random.default_rng(5)
    table = keys(60, rng)
    video = torch.from_numpy(frames_of(table, rng)).permute(3, 0, 1, 2)[None].float() / 255
    scores = network.score(video)
    pressed = torch.from_numpy(table[1:]).bool()
    hits, alarms = button_rates(pressed, scores.pressed[0])
    assert (hits > 0.85).all() and (alarms < 0.15).all()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["seen/accuracy"] > 0.8


def test_a_run_resumes(recordings: Path, tmp_path: Path) -> None:
    short = recipe_for(recordings, "run.steps=2", "run.eval_every=2", "run.checkpoint_every=1")
    longer = replace(short, run=replace(short.run, steps=3, eval_every=3))
    train_inverse_dynamics(short, tmp_path / "run")
    train_inverse_dynamics(longer, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step_0000003.pt").exists()


def test_every_corruption_differs_from_the_clip() -> None:
    clip = torch.rand(3, 4, 20, 24, generator=torch.Generator().manual_seed(0))
    found = {corrupt(clip, torch.Generator().manual_seed(seed)).sum().item() for seed in range(20)}
    assert len(found) > 4
    for seed in range(20):
        changed = corrupt(clip, torch.Generator().manual_seed(seed))
        assert changed.shape == clip.shape and (changed - clip).abs().mean() > 0.1


def test_data_without_buttons_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((8, 16, 16, 3), np.uint8), fps=8)
    with pytest.raises(PhenakiError, match="has no buttons"):
        train_inverse_dynamics(recipe_for(tmp_path), tmp_path / "run")
    with pytest.raises(PhenakiError, match="single frame"):
        recipe_for(tmp_path, "data.lengths=[1]")


# ---- the suite


class Reader(nn.Module):
    """In place of a trained network: a frame's red is that of "left", green of "right", blue that it is real."""

    config = InverseDynamicsConfig(NAMES, (16, 16))
    check_actions = InverseDynamics.check_actions

    def score(self, video: torch.Tensor) -> object:
        mean = video[:, :, 1:].mean((3, 4)).transpose(1, 2) - 0.5
        return suite.InverseDynamics.__init__.__globals__["Transitions"](mean[..., :2], mean[..., 2])


class Obedient:
    """In place of a rollout: shows its keys as colours; `deaf` shows none."""

    deaf = False

    def __init__(self, components: Components, sampling: SamplingConfig, rng: object, samples: int, start: object):
        self.spec, self.samples = components.generator.config.actions, samples

    def step(self, text: Text, rows: torch.Tensor) -> torch.Tensor:
        keys = rows.view(self.samples, 2, 2) * (not self.deaf)
        frames = torch.cat((keys, torch.ones(self.samples, 2, 1)), 2)
        return frames.transpose(1, 2)[..., None, None].expand(-1, -1, -1, 16, 16)


@pytest.fixture
def model(tokenizer: CViViT, text_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Phenaki:
    monkeypatch.setattr(suite, "CausalRollout", Obedient)
    monkeypatch.setattr(suite, "fingerprint", lambda network: "reader")
    monkeypatch.setattr(tokenizer, "config", replace(tokenizer.config, image_size=(16, 16)))
    sizes = CausalTransformerSizes(frames=21, width=64, layers=1, window=5)
    spec = ActionSpec(NAMES, ("button",) * 2)
    return Phenaki(Components(build_generator(sizes, tokenizer.spec, 64, spec), tokenizer, text_encoder))


@pytest.mark.parametrize(("deaf", "following"), [(False, 1.0), (True, 0.0)])
def test_an_obedient_generator_follows_and_a_deaf_one_does_not(
    model: Phenaki, recordings: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool, following: float
) -> None:
    monkeypatch.setattr(Obedient, "deaf", deaf)
    metrics = evaluate(model, ["actions"], data=str(recordings), inverse_dynamics=Reader(), quick=True, progress=False)
    block = metrics["actions"]
    assert list(block["generated"]) == ["1", "5", "30"]
    for found in block["generated"].values():
        assert found["following"] == following and found["pictures"]["rate"] == 1.0
    assert set(block["real"]["buttons"]) == set(NAMES)
    assert block["there_and_back"]["count"] == 2 * 20
    assert block["protocol"]["videos"] == 6 and report(metrics).renderables


def test_what_is_missing_is_said(model: Phenaki, recordings: Path, tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match="--judge"):
        evaluate(model, ["actions"], data=str(recordings), progress=False)
    with pytest.raises(PhenakiError, match="prompts and stories need"):
        evaluate(model, ["prompts"], data=str(recordings), inverse_dynamics=Reader(), progress=False)
    assert suites_of(model, "my/clips", Reader()) == ("reconstruction", "generation", "actions")
    assert suites_of(tokenizer, "my/clips", Reader()) == ("reconstruction",)
    other = Reader()
    other.config = InverseDynamicsConfig(("jump",), (16, 16))
    with pytest.raises(PhenakiError, match="lack jump"):
        evaluate(model, ["actions"], data=str(recordings), inverse_dynamics=other, progress=False)
    with pytest.raises(PhenakiError, match="frames of 16x16, and these have 24x16"):
        InverseDynamics(InverseDynamicsConfig(NAMES, (16, 16))).score(torch.zeros(1, 3, 2, 16, 24))
