"""The first stage's update: whose gradients are whose, what is in a checkpoint, and the test on one clip."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.training import lasting, random_clips, saved, stop_after, tiny_recipe, trainer, weights
from phenaki.cli import app
from phenaki.core.components import load_component
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.data.batch_stream import batch_sizes
from phenaki.data.eval_samples import EvalSamples
from phenaki.data.sources import Sample
from phenaki.media.convert import to_float, to_uint8
from phenaki.media.writer import write_video
from phenaki.perceptual import I3D, LPIPS
from phenaki.tokenizers import Tokenizer, build_tokenizer
from phenaki.training.health import check_clips
from phenaki.training.optim import Optimizers
from phenaki.training.previews import evaluate_tokenizer
from phenaki.training.recipes import cvivit_debug, cvivit_debug_codebook, cvivit_shapes_64_streaming
from phenaki.training.run import Run
from phenaki.training.runs import find_runs
from phenaki.training.tokenizer import TokenizerRecipe, overfit_one, train_tokenizer


@pytest.fixture
def lpips(monkeypatch: pytest.MonkeyPatch) -> LPIPS:
    """A random network in place of the trained one."""
    torch.manual_seed(0)
    network = LPIPS(width=2).eval().requires_grad_(False)
    monkeypatch.setattr("phenaki.training.tokenizer.load_lpips", lambda path: network)
    return network


@pytest.fixture
def i3d(monkeypatch: pytest.MonkeyPatch) -> I3D:
    torch.manual_seed(0)
    network = I3D(narrow=16).eval().requires_grad_(False)
    monkeypatch.setattr("phenaki.training.tokenizer.load_i3d", lambda path: network)
    return network


def gradients(parameters: Iterator[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("input", ["frames", "clips"])
def test_each_side_learns_from_its_own_step_alone(input: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(adversarial=0.5)
    recipe = replace(recipe, discriminator=replace(recipe.discriminator, input=input, adaptive=True))
    both = trainer(recipe, tmp_path)
    update, turns = Optimizers.update, []

    def spied(self: Optimizers, step: int) -> float:
        of_tokenizer = gradients(both.tokenizer.parameters())
        of_discriminator = gradients(both.discriminator.parameters())
        turns.append((self, len(of_tokenizer), len(of_discriminator)))
        return update(self, step)

    monkeypatch.setattr(Optimizers, "update", spied)
    metrics = both.update(random_clips(), 0)
    (first, *own), (second, *other) = turns
    assert first is both.optimizers["optimizers"] and own[0] > 0 and own[1] == 0
    assert second is both.optimizers["discriminator_optimizers"] and other[0] == 0 and other[1] > 0
    assert not gradients(both.tokenizer.parameters()) and not gradients(both.discriminator.parameters())
    assert {"adversarial", "discriminator_loss", "penalty"} < metrics.keys()


def test_each_parameter_has_one_optimizer_and_guests_have_none(tmp_path: Path, lpips: LPIPS, i3d: I3D) -> None:
    recipe = tiny_recipe(adversarial=0.1, lpips=0.1, i3d=1.0)
    both = trainer(recipe, tmp_path)
    guests = [*lpips.parameters(), *lpips.buffers(), *i3d.parameters(), *i3d.buffers()]
    before = [tensor.clone() for tensor in guests]
    for network, optimizers in (
        (both.tokenizer, both.optimizers["optimizers"]),
        (both.discriminator, both.optimizers["discriminator_optimizers"]),
    ):
        held = [p for o in optimizers.optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(map(id, held)) == sorted(map(id, network.parameters()))
    metrics = both.update(random_clips(1), 0)
    assert {"lpips", "i3d"} < metrics.keys()
    assert all(torch.equal(one, other) for one, other in zip(before, guests, strict=True))
    assert all(tensor.grad is None for tensor in guests)
    assert both.state.keys() == {"tokenizer", "ema", "optimizers", "discriminator", "discriminator_optimizers"}
    names = {name for part in ("tokenizer", "ema", "discriminator") for name in both.state[part].state_dict()}
    assert not any("lin0" in name or "Mixed" in name for name in names)


def test_a_term_of_weight_0_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("load_lpips", "load_i3d", "Discriminator"):
        monkeypatch.setattr(f"phenaki.training.tokenizer.{name}", lambda *_: pytest.fail("loaded"))
    alone = trainer(tiny_recipe(), tmp_path)
    terms = {"l1", "lpips", "i3d", "adversarial", "token_consistency", "entropy", "discriminator_loss"}
    assert not terms & alone.update(random_clips(), 0).keys()
    assert alone.state.keys() == {"tokenizer", "ema", "optimizers"}


def test_the_adversary_is_neither_heard_nor_taught_before_its_start(tmp_path: Path) -> None:
    recipe = tiny_recipe(adversarial=0.1)
    both = trainer(replace(recipe, discriminator=replace(recipe.discriminator, start=2)), tmp_path)
    before = [parameter.clone() for parameter in both.discriminator.parameters()]
    assert "adversarial" not in both.update(random_clips(), 1)
    assert all(torch.equal(*pair) for pair in zip(before, both.discriminator.parameters(), strict=True))
    assert "adversarial" in both.update(random_clips(), 2)
    assert not all(torch.equal(*pair) for pair in zip(before, both.discriminator.parameters(), strict=True))


def test_interrupted_and_resumed_equals_uninterrupted_with_an_adversary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lpips: LPIPS
) -> None:
    recipe = lasting(tiny_recipe(cvivit_debug_codebook(), adversarial=0.1, lpips=0.1, frames=1), 6)
    recipe = replace(recipe, discriminator=replace(recipe.discriminator, start=1, adaptive=True))
    train_tokenizer(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train_tokenizer(recipe, tmp_path / "parts")
    train_tokenizer(recipe, tmp_path / "parts")
    uninterrupted, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert uninterrupted.keys() == parts.keys()
    assert any(name.startswith(".discriminator_optimizers") for name in uninterrupted)
    assert all(torch.equal(uninterrupted[name], parts[name]) for name in uninterrupted)


@pytest.mark.parametrize("make", [cvivit_debug, cvivit_debug_codebook])
def test_parts_of_a_batch_do_what_the_whole_batch_does(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(make(), adversarial=0.1, l1=0.5)
    update, found = Optimizers.update, []

    def spied(self: Optimizers, step: int) -> float:
        found.append([parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None])
        return update(self, step)

    monkeypatch.setattr(Optimizers, "update", spied)
    metrics = []
    for accumulate in (1, 2, 3):
        parts = replace(recipe, optimizer=replace(recipe.optimizer, accumulate=accumulate, lr=1e-12))
        metrics.append(trainer(parts, tmp_path).update(random_clips(5), 0))
    for other in (2, 4):  # the tokenizer's gradients and the discriminator's, of each run
        for uninterrupted, parts in zip(found[0] + found[1], found[other] + found[other + 1], strict=True):
            assert torch.allclose(uninterrupted, parts, rtol=1e-3, atol=1e-6)
    for name, value in metrics[0].items():
        assert float(metrics[1][name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    train_tokenizer(lasting(tiny_recipe(), 1), tmp_path)
    path = tmp_path / "recipe.json"
    older = json.loads(path.read_text())
    del older["discriminator"], older["loss"]["lpips"], older["optimizer"]["accumulate"]
    del older["tokenizer"]["quantizer"]["commitment"]
    older["loss"]["gone"] = 1.0
    path.write_text(json.dumps(older))
    with pytest.raises(PhenakiError, match=r"loss.adversarial from 0.0 to 0.1"):
        train_tokenizer(lasting(tiny_recipe(adversarial=0.1), 2), tmp_path)
    path.write_text(json.dumps(older))
    train_tokenizer(lasting(tiny_recipe(), 2), tmp_path)
    assert saved(tmp_path)["step"] == 2


# ---- broken weights


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    recipe = lasting(tiny_recipe(), 2)
    linear = torch.nn.Linear(2, 2)
    with Run(tmp_path, recipe.run, recipe) as run:
        run.save({"tokenizer": linear})
        before = linear.weight.detach().clone()
        linear.weight.data[0, 0] = float("nan")
        run.step = 1
        good = "step_0000000.pt and a lower optimizer.lr"
        with pytest.raises(PhenakiError, match=f"the tokenizer is not finite after step 1: .* last good .*{good}"):
            run.save({"tokenizer": linear})
    assert torch.equal(saved(tmp_path)["state"]["tokenizer"]["weight"], before)


@pytest.mark.parametrize("name", ["loss", "discriminator_loss"])
def test_a_loss_that_is_not_finite_ends_the_run_at_the_last_good_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = lasting(tiny_recipe(adversarial=0.1), 9)
    recipe = replace(recipe, run=replace(recipe.run, checkpoint_every=2, bad_steps=1))
    loss = "pixel_losses" if name == "loss" else "discriminator_loss"
    original = getattr(__import__("phenaki.training.tokenizer", fromlist=[loss]), loss)
    calls = []

    def breaking(*arguments: object) -> object:
        calls.append(1)
        value, factor = original(*arguments), float("nan") if len(calls) > 5 else 1.0
        return {key: term * factor for key, term in value.items()} if isinstance(value, dict) else value * factor

    monkeypatch.setattr(f"phenaki.training.tokenizer.{loss}", breaking)
    with pytest.raises(
        PhenakiError, match=f"the {name} became nan at step 5; .*: resume from the last good checkpoint"
    ):
        train_tokenizer(recipe, tmp_path)
    last = saved(tmp_path)
    assert last["step"] == 4
    assert all(tensor.isfinite().all() for tensor in last["state"]["tokenizer"].values())


# ---- clips that are none


def test_clips_of_another_size_or_range_are_refused() -> None:
    def judged_by(video: np.ndarray) -> EvalSamples:
        return EvalSamples([SimpleNamespace(video=video)], "test", False)

    good = np.full((3, 16, 24, 3), 100, np.uint8)
    check_clips(judged_by(good), (16, 24))
    for video in (good[:, :8], good.transpose(0, 2, 1, 3), good[..., :1], good / np.float32(255)):
        with pytest.raises(PhenakiError, match=r"shape \(3, .*needs uint8 \(T, H, W, 3\) of 16x24"):
            check_clips(judged_by(video), (16, 24))
    with pytest.raises(PhenakiError, match="brightest of all pixels is 1 of 255"):
        check_clips(judged_by(np.minimum(good, 1)), (16, 24))


def test_a_run_on_black_clips_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "black.mp4", np.zeros((6, 16, 16, 3), np.uint8), 8)
    recipe = tiny_recipe()
    sources = (replace(recipe.data.sources[0], uri=str(tmp_path / "clips")),)
    with pytest.raises(PhenakiError, match="these clips are black"):
        train_tokenizer(replace(recipe, data=replace(recipe.data, sources=sources)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_clips_may_be_longer_than_the_window(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    data = replace(recipe.data, lengths=(1, 9))
    recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, window=2), data=data)
    folder = train_tokenizer(replace(recipe, run=replace(recipe.run, steps=1)), tmp_path / "run")
    assert load_component(folder, "tokenizer").config.window == 2


def test_the_streaming_recipe_has_clips_of_three_windows_in_most_steps() -> None:
    recipe = cvivit_shapes_64_streaming()
    data, patch = recipe.data, recipe.tokenizer.patch[0]
    long = [latent_frames(frames, patch) >= 3 * recipe.tokenizer.window for frames in data.lengths]
    assert sum(weight for weight, is_long in zip(data.length_weights, long, strict=True) if is_long) > 0.5
    assert all(size for sizes in batch_sizes(data, patch, 1) for size in sizes)


# ---- one clip


def test_a_picture_says_which_rows_are_reconstructions(tmp_path: Path) -> None:
    tokenizer = trainer(tiny_recipe(), tmp_path).tokenizer.eval()
    clips = to_uint8(random_clips(2))
    _, picture = evaluate_tokenizer(tokenizer, EvalSamples([Sample(video, "") for video in clips], "test", False))
    rows = list(zip(picture.labels, picture.clips, strict=True))
    assert np.array_equal([row for label, row in rows if label == "original"], clips)
    reconstructed = to_uint8(tokenizer.decode(tokenizer.encode(to_float(clips))))
    assert np.array_equal([row for label, row in rows if label == "reconstruction"], reconstructed)


def test_one_clip_is_learned_by_heart(tmp_path: Path) -> None:
    said = overfit_one(lasting(tiny_recipe(), 5), tmp_path, steps=120, goal=16.0)
    assert re.match(r"passed: one clip was memorised, 1[6-9]\.\d dB at step \d+; with its codes shuffled ", said)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["psnr"] >= 16
    assert [picture.stem for picture in tmp_path.glob("*.png")] == [f"overfit_one_{lines[-1]['step']:07d}"]
    (summary,) = find_runs(tmp_path)
    assert summary.state == "finished" and summary.sentence == said
    with pytest.raises(PhenakiError, match="name a new one"):
        overfit_one(tiny_recipe(), tmp_path)


def test_a_decoder_that_knows_the_clip_without_its_codes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a collapsed codebook, whose order says nothing."""
    monkeypatch.setattr(Tokenizer, "encode", lambda self, video: torch.zeros(1, *self.grid(*video.shape[2:])).long())
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: torch.full((1, 3, 3, 16, 16), 0.5))
    with pytest.raises(PhenakiError, match=r"failed: the decoder knows the clip without its codes: [\d.]+ dB, and "):
        overfit_one(lasting(tiny_recipe(), 5), tmp_path, steps=3, goal=1.0)
    (summary,) = find_runs(tmp_path)
    assert summary.state == "failed" and summary.sentence.startswith("failed: the decoder")
    assert len(list(tmp_path.glob("overfit_one_*.png"))) == 1


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"optimizer": {"lr": 1e-9}}, "the PSNR hardly rose"),
        ({"loss": {"l2": 1e-30}}, "dead gradients: the norm is"),
        ({"optimizer": {"lr": 1e30, "kind": "adamw", "weight_decay": 0.0}}, "(loss|grad_norm) became (nan|inf)"),
    ],
)
def test_a_clip_that_is_not_learned_says_why(changes: dict, wrong: str, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, **{room: replace(getattr(recipe, room), **values) for room, values in changes.items()})
    with pytest.raises(PhenakiError, match=wrong):
        overfit_one(recipe, tmp_path, steps=25)


def test_the_command_ends_with_the_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", "tokenizer", "-r", "cvivit_debug", "--overfit-one", "-o", str(tmp_path / "run")]
    monkeypatch.setattr("phenaki.training.tokenizer.overfit_one", lambda recipe, folder: "learned by heart")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "learned by heart" in result.output

    def failing(recipe: TokenizerRecipe, folder: Path) -> str:
        raise PhenakiError("not memorised")

    monkeypatch.setattr("phenaki.training.tokenizer.overfit_one", failing)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "phenaki: not memorised" in result.output


def test_a_run_begins_with_the_weights_of_a_tokenizer_of_its_sizes(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, run=replace(recipe.run, steps=1))
    first = load_component(train_tokenizer(recipe, tmp_path / "first"))
    frozen = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e-12))
    again = load_component(train_tokenizer(frozen, tmp_path / "again", init=first))
    for (name, one), other in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name
    wider = replace(recipe, tokenizer=replace(recipe.tokenizer, width=128))
    with pytest.raises(PhenakiError, match="other sizes"):
        train_tokenizer(wider, tmp_path / "wider", init=first)
    assert not (tmp_path / "wider" / "checkpoints").exists()


@pytest.mark.parametrize("make", [cvivit_debug, cvivit_debug_codebook])
def test_a_frozen_encoder_keeps_the_ids(make: Callable[[], TokenizerRecipe], tmp_path: Path) -> None:
    recipe = tiny_recipe(make())
    recipe = replace(recipe, run=replace(recipe.run, steps=3), freeze_encoder=True)
    torch.manual_seed(0)
    first = build_tokenizer(recipe.tokenizer).eval()
    after = load_component(train_tokenizer(recipe, tmp_path / "run", init=first))
    video = torch.rand(2, 3, 3, 16, 16)
    ids = first.encode(video)
    assert torch.equal(after.encode(video), ids) and not torch.equal(after.decode(ids), first.decode(ids))
    with pytest.raises(PhenakiError, match="--init-from"):
        train_tokenizer(recipe, tmp_path / "other")
