"""The notebooks run from top to bottom, and are kept without output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = PROJECT / "examples" / "notebooks"
NAMES = ("generate", "train", "play")


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def test_there_are_no_others() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_begin_with_a_badge_and_an_install_cell_and_hold_no_output(name: str) -> None:
    badge, install, *_ = cells(name)
    assert "colab-badge.svg" in "".join(badge["source"]) and "%pip install" in "".join(install["source"])
    for cell in cells(name):
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    import nbformat

    program = tmp_path / "bin" / "phenaki"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m phenaki "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("<video" in data.get("text/html", "") for data in shown)
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "Traceback" not in printed and "Error" not in printed, printed
    if name == "play":
        assert shown[-1]["text/plain"] == "True"  # the same frames again
    if name == "train":
        assert "The model is in generator/model" in printed and any("image/png" in data for data in shown)
