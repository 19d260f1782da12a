"""The notebook runs, from its first cell to its last, and has its pictures saved with it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "reconstruct.ipynb"


def run(source: str, scope: dict[str, Any]) -> Any:
    """The value of the last line of a cell, where it is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK, "exec"), scope)
    return eval(compile(ast.Expression(last.value), NOTEBOOK, "eval"), scope) if last else None


def test_the_notebook_runs_and_shows_pictures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(EXAMPLES)
    before = set(EXAMPLES.rglob("*"))
    scope: dict[str, Any] = {}
    pictures = []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            value = run("".join(cell["source"]), scope)
            saved = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
            assert isinstance(value, Image.Image) == bool(saved)
            pictures += [value] if saved else []
    assert len(pictures) == 2
    for picture in pictures:
        pixels = np.asarray(picture)
        assert pixels.shape == (2 * 64 + 2 * 4, 11 * 64 + 10 * 2, 3)
        assert pixels[:64].std() > 10  # neither empty nor flat
    assert "equal: 100%" in capsys.readouterr().out
    assert set(EXAMPLES.rglob("*")) == before
    assert NOTEBOOK.stat().st_size < 400_000
