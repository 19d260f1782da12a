"""A run says what it goes on from, and what it does when it does not train."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.training import lasting, tiny_recipe
from phenaki.cli import app
from phenaki.training.health import COLLAPSE, Health
from phenaki.training.tokenizer import train_tokenizer


def test_a_resumed_run_says_from_where_and_with_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = lasting(tiny_recipe(), 3)
    train_tokenizer(recipe, tmp_path)
    assert "resuming" not in capsys.readouterr().err
    train_tokenizer(replace(recipe, run=replace(recipe.run, steps=5, previews=False)), tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "resuming after step 3, from '" in said
    assert "with other settings (run.steps from 3 to 5; run.previews from True to False)" in said
    train_tokenizer(lasting(tiny_recipe(), 4), tmp_path)
    assert "it is complete: raise run.steps above 4" in " ".join(capsys.readouterr().err.split())


def test_evaluating_is_said_and_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = lasting(tiny_recipe(), 1)
    train_tokenizer(recipe, tmp_path / "one")
    assert "step 1/1 evaluating (run.previews=false skips it)" in capsys.readouterr().err
    assert list((tmp_path / "one").glob("*.png"))
    train_tokenizer(replace(recipe, run=replace(recipe.run, previews=False)), tmp_path / "two")
    assert not list((tmp_path / "two").glob("*.png")) and (tmp_path / "two" / "tokenizer" / "config.json").is_file()


def test_sources_are_named_in_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "tokenizer", "-r", "cvivit_debug", "-o", "run", "-d", "videos", "data.sources=[{uri: shapes}]"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert re.search(r"--data videos and data.sources=.* both say what to train on", " ".join(result.output.split()))


@pytest.mark.parametrize(("kind", "advised"), [("fsq", False), ("codebook", True)])
def test_advice_against_a_collapse_fits_the_quantizer(kind: str, advised: bool) -> None:
    health = Health(kind)
    metrics = {"perplexity": 1.6, "used": 0.001, "contrast": 1.0, "grad_norm": 1.0}
    said = [health.check(metrics, 1.0) for _ in range(COLLAPSE.steps)][-1]["codebook collapse"]
    assert ("kind=fsq" in said) == advised
