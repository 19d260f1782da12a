"""Alarms: each is raised by what it is for, once per stretch, and a healthy run raises none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.training import lasting, random_clips, tiny_recipe, trainer
from phenaki.training import health
from phenaki.training.health import (
    COLLAPSE,
    DEAD,
    EXPLODING,
    FLAT_COLOUR,
    TOO_STRONG,
    Alarm,
    Health,
    contrast,
    diagnosis,
)
from phenaki.training.recipes import cvivit_debug_codebook
from phenaki.training.tokenizer import train_tokenizer

HEALTHY = {"perplexity": 20.0, "used": 0.1, "contrast": 0.9, "grad_norm": 0.01}
TOLD_APART = {"discriminator_accuracy": 1.0, "discriminator_loss": 0.1}
WRONG: dict[Alarm, list[dict[str, float]]] = {
    COLLAPSE: [{"perplexity": 1.2}, {"used": 0.001}],
    FLAT_COLOUR: [{"contrast": 0.01}],
    TOO_STRONG: [TOLD_APART, {"discriminator_accuracy": 0.9, "discriminator_loss": 1e-5}],
    DEAD: [{"grad_norm": 0.0}, {"grad_norm": 1e-12}],
    EXPLODING: [{"grad_norm": 50.0}],
}


def settled() -> Health:
    watch = Health()
    for _ in range(150):
        assert watch.check(HEALTHY, 1.0) == {}
    return watch


@pytest.mark.parametrize(("alarm", "wrong"), [(alarm, each) for alarm, all_ in WRONG.items() for each in all_])
def test_each_alarm_is_raised_once_per_stretch_after_its_steps(alarm: Alarm, wrong: dict[str, float]) -> None:
    watch = settled()
    for _ in range(2):
        said = [watch.check(HEALTHY | wrong, 1.0) for _ in range(3 * alarm.steps)]
        assert [list(each) for each in said if each] == [[alarm.name]]
        assert alarm.name in said[alarm.steps - 1]
        assert "{" not in said[alarm.steps - 1][alarm.name]  # the values are in
        assert watch.check(HEALTHY, 1.0) == {}


@pytest.mark.parametrize(("alarm", "wrong"), [(alarm, each[0]) for alarm, each in WRONG.items()])
def test_one_good_step_ends_a_stretch(alarm: Alarm, wrong: dict[str, float]) -> None:
    watch = settled()
    for _ in range(3):
        assert not any(watch.check(HEALTHY | wrong, 1.0) for _ in range(alarm.steps - 1))
        assert watch.check(HEALTHY, 1.0) == {}


def test_few_ids_cannot_use_many_codes() -> None:
    watch = settled()
    few = HEALTHY | {"used": 48 / 8192}
    assert not any(watch.check(few, 48 / 8192) for _ in range(2 * COLLAPSE.steps))
    assert any(watch.check(few, 1.0) for _ in range(2 * COLLAPSE.steps))


def collapsed(tokenizer: torch.nn.Module) -> None:
    torch.nn.init.zeros_(tokenizer.quantizer.project_in.weight)
    torch.nn.init.ones_(tokenizer.quantizer.project_in.bias)


def colourless(tokenizer: torch.nn.Module) -> None:
    for weight in tokenizer.last_layer:
        torch.nn.init.zeros_(weight)


@pytest.mark.parametrize(("sabotage", "alarm"), [(collapsed, COLLAPSE), (colourless, FLAT_COLOUR)])
def test_what_is_broken_shows_in_the_figures_of_an_update(sabotage, alarm: Alarm, tmp_path: Path) -> None:
    recipe = tiny_recipe(cvivit_debug_codebook())
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e-12))
    found = []
    for break_it in (lambda tokenizer: None, sabotage):
        sound = trainer(recipe, tmp_path)
        break_it(sound.tokenizer)
        watch, metrics = Health(), sound.update(random_clips(), 0)
        found.append([name for _ in range(alarm.steps) for name in watch.check(metrics, 1.0)])
    assert found == [[], [alarm.name]]


def test_a_discriminator_that_tells_all_apart_is_too_strong(tmp_path: Path) -> None:
    recipe = tiny_recipe(adversarial=1e-9)
    recipe = replace(
        recipe,
        optimizer=replace(recipe.optimizer, lr=1e-12),
        discriminator=replace(recipe.discriminator, lr=3e-2, penalty=0.0),
    )
    both, watch = trainer(recipe, tmp_path), Health()
    colourless(both.tokenizer)
    first = both.update(random_clips(), 20)
    for step in range(21, 45):
        last = both.update(random_clips(), step)
    assert first["discriminator_accuracy"] < 1
    assert not any(TOO_STRONG.name in watch.check(first, 1.0) for _ in range(TOO_STRONG.steps))
    assert any(TOO_STRONG.name in watch.check(last, 1.0) for _ in range(TOO_STRONG.steps))


def test_an_alarm_is_on_the_screen_and_in_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tokenizer(lasting(tiny_recipe(l2=1e-30), DEAD.steps + 3), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    alarms = [line for line in lines if "alarm" in line]
    assert [(line["alarm"], line["step"]) for line in alarms] == [("dead gradients", DEAD.steps)]
    screen = capsys.readouterr()
    assert f"step {DEAD.steps}: dead gradients: the norm is" in screen.out + screen.err


def test_a_healthy_run_raises_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLLAPSE", "FLAT_COLOUR", "TOO_STRONG", "DEAD", "EXPLODING"):
        alarm = getattr(health, name)
        monkeypatch.setattr(health, name, alarm._replace(steps=min(15, alarm.steps)))
    train_tokenizer(lasting(tiny_recipe(adversarial=0.01), 40), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "alarm" in line]


def test_contrast_is_a_share_of_the_originals() -> None:
    video = random_clips()
    assert contrast(video, video) == pytest.approx(1)
    assert contrast(video / 4 + 0.5, video) == pytest.approx(0.25)
    each_frame_flat = video.mean((3, 4), keepdim=True).expand_as(video)
    assert contrast(each_frame_flat, video) == pytest.approx(0, abs=1e-6)
    assert contrast(video, each_frame_flat) == 1  # nothing to be lost


def test_the_verdict_follows_the_curve() -> None:
    def curve(*decibels: float) -> list[dict[str, float]]:
        return [{"psnr": value} for value in decibels]

    rising = [10 + step / 5 for step in range(100)]
    assert "hardly rose" in diagnosis(curve(*[9.0] * 100), [])
    assert "still rising" in diagnosis(curve(*rising), [])
    assert "stays at 20.0 dB" in diagnosis(curve(*rising[:50], *[20.0] * 50), [])
    assert diagnosis(curve(*rising), ["collapse: 1", "flat: 2"]) == "collapse: 1; flat: 2"
