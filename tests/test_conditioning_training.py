"""Text encoders in the training of a generator: frozen ones, cached embeddings, none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.encoders import tiny_clip, tiny_t5
from helpers.training import saved
from phenaki.cli import app
from phenaki.conditioning import NoText, NoTextConfig, T5Config, T5Encoder
from phenaki.core.components import fingerprint, save_component
from phenaki.core.errors import PhenakiError
from phenaki.data.config import SourceConfig
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.pipeline import load, load_text_encoder
from phenaki.tokenizers import CViViT
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.recipes import masked_debug


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_t5(tmp_path_factory.mktemp("encoders") / "t5")


def recipe(place: object, **changes: object) -> GeneratorRecipe:
    debug = masked_debug()
    data = replace(debug.data, sources=(SourceConfig(str(place)),), batch=2)
    run = replace(debug.run, steps=2, log_every=1, eval_every=2)
    return replace(debug, data=data, run=run, **changes)


def parts(folder: Path) -> dict:
    return saved(folder)["state"]


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_a_pretrained_encoder_of_the_recipe_is_frozen_and_only_named(
    t5: str, clips: Path, tokenizer: CViViT, tmp_path: Path
) -> None:
    model = train_generator(recipe(clips, text=T5Config(t5, width=32)), tmp_path / "run", tokenizer)
    assert parts(tmp_path / "run").keys() == {"generator", "generator_ema", "optimizers", "data"}
    assert not any("network" in name for name in parts(tmp_path / "run")["generator"])
    assert [file.name for file in (model / "text").iterdir()] == ["config.json"]
    trained = load(model, device="cpu")
    assert isinstance(trained.text_encoder, T5Encoder) and trained.generator.config.text_width == 32
    assert fingerprint(trained.text_encoder) == fingerprint(load_text_encoder(t5))
    wider = recipe(clips, text=T5Config(t5, width=32, length=64))
    with pytest.raises(PhenakiError, match="another recipe"):
        train_generator(wider, tmp_path / "run", tokenizer)


def test_cached_embeddings_train_as_those_made_on_the_way(
    t5: str, clips: Path, tokenizer: CViViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_text_encoder(t5)
    for name, reader in (("ids", None), ("both", encoder)):
        tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5), str(tmp_path / name), tokenizer, reader)
    train_generator(recipe(tmp_path / "ids"), tmp_path / "made", text_encoder=encoder)
    monkeypatch.setattr(T5Encoder, "__init__", lambda *_: pytest.fail("it was loaded"))
    train_generator(recipe(tmp_path / "both", text=T5Config("not/here", width=32)), tmp_path / "cached")
    assert np.allclose(losses(tmp_path / "made"), losses(tmp_path / "cached"), rtol=2e-3)
    assert len(losses(tmp_path / "made")) == 2
    monkeypatch.undo()
    train_generator(recipe(tmp_path / "both"), tmp_path / "whole", tokenizer, encoder)
    shutil.copytree(t5, tmp_path / "moved")
    train_generator(recipe(tmp_path / "both"), tmp_path / "moved_run", None, load_text_encoder(tmp_path / "moved"))
    other = load_text_encoder(tiny_t5(tmp_path / "other", seed=5))
    for wrong in (other, T5Encoder(replace(encoder.config, length=64))):
        with pytest.raises(PhenakiError, match="are of another text encoder than"):
            train_generator(recipe(tmp_path / "both"), tmp_path / "wrong", tokenizer, wrong)


def test_no_text_needs_no_captions(clips: Path, tokenizer: CViViT, tmp_path: Path) -> None:
    for clip in clips.glob("*.mp4"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / "bare")
    with pytest.raises(PhenakiError, match="no caption"):
        train_generator(recipe(tmp_path / "bare"), tmp_path / "refused", tokenizer)
    model = train_generator(recipe(tmp_path / "bare", text=NoTextConfig()), tmp_path / "run", tokenizer)
    trained = load(model, device="cpu")
    assert isinstance(trained.text_encoder, NoText) and trained.generate("").video.shape == (1, 3, 5, 32, 32)
    place = str(tmp_path / "tokens")
    tokenize(TokenizeConfig(SourceConfig(str(tmp_path / "bare")), frames=5), place, tokenizer, NoText(NoTextConfig()))
    train_generator(recipe(place), tmp_path / "cached")
    assert len(losses(tmp_path / "cached")) == 2


def test_the_commands_take_folders_of_transformers(t5: str, clips: Path, tokenizer: CViViT, tmp_path: Path) -> None:
    first_stage = tmp_path / "tokenizer"
    save_component(tokenizer, first_stage)
    clip = tiny_clip(tmp_path / "clip")
    made = CliRunner().invoke(
        app,
        ["data", "tokenize", str(clips), str(tmp_path / "tokens"), "-t", str(first_stage)]
        + ["--text-encoder", clip, "--frames", "5"],
    )
    assert made.exit_code == 0, made.output
    said = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    assert said["text_width"] == 32 and said["text_encoder"] == fingerprint(load_text_encoder(clip))
    run = ["run.steps=1", "run.eval_every=1", "data.batch=2"]
    command = ["train", "generator", "-r", "masked_debug", "-o", str(tmp_path / "run"), "--tokenizer", str(first_stage)]
    trained = CliRunner().invoke(app, [*command, "-d", str(clips), "--text-encoder", t5, "text.length=32", *run])
    assert trained.exit_code == 0, trained.output
    assert load(tmp_path / "run" / "model", device="cpu").text_encoder.config == T5Config(t5, width=32, length=32)
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())["text"]
    assert recorded["name"] == t5 and recorded["length"] == 32
    missing = CliRunner().invoke(app, [*command, "--text-encoder", "google/t5-v1_1-xxl"])
    assert missing.exit_code == 2 and "hf download google/t5-v1_1-xxl" in missing.output
