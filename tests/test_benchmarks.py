"""Benchmarks and runs can be imported: what they use of the package exists, and their configurations are valid."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from phenaki.core import worlds

PROJECT = Path(__file__).parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "runs") for path in (PROJECT / folder).glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_scripts_can_be_imported(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    before = dict(worlds.WORLDS)
    try:
        importlib.import_module(script.stem)
    finally:  # a script may register a world of its own
        worlds.WORLDS.clear()
        worlds.WORLDS.update(before)


def test_losses_that_are_compared_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    losses = importlib.import_module("losses")
    recipes = {arm: losses.recipe_of(arm, steps=10).loss for arm in losses.ARMS}
    assert len(set(recipes.values())) == len(recipes)
