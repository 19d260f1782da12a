"""Runs are listed with their true state, and their page needs nothing but itself."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phenaki.cli import app
from phenaki.cli.runs_page import write_page
from phenaki.core.errors import PhenakiError
from phenaki.training.recipes import cvivit_debug
from phenaki.training.resume import ResumePolicy
from phenaki.training.run import Run
from phenaki.training.runs import STATE, find_runs
from phenaki.training.tokenizer import train_tokenizer


def run_in(folder: Path, steps: int = 3, until: int = 3, error: Exception | None = None) -> None:
    recipe = cvivit_debug()
    recipe = replace(recipe, run=replace(recipe.run, steps=steps, log_every=1, trackers=()))
    with Run(folder, recipe.run, recipe) as run:
        for step in run.steps({}):
            run.log(loss=1.0 / (step + 1))
            run.record({"test/psnr": [10.0, 12.0, 11.0][step], "test/used": 0.5})
            if step + 1 == until and error:
                raise error
            if step + 1 == until < steps:
                os.kill(os.getpid(), 2)


def test_each_state_is_told(tmp_path: Path) -> None:
    run_in(tmp_path / "a" / "finished")
    run_in(tmp_path / "stopped", until=2)
    with pytest.raises(PhenakiError):
        run_in(tmp_path / "failed", until=2, error=PhenakiError("the disk is <full>"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text('{"of": "a cake"}')
    found = {run.folder.name: run for run in find_runs(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {n: n for n in ("finished", "stopped", "failed")}
    assert found["failed"].sentence == "the disk is <full>"
    assert {name: run.step for name, run in found.items()} == {"finished": 3, "stopped": 2, "failed": 2}
    assert found["finished"].best == {"test/psnr": (12.0, 2)}
    assert found["finished"].stage == "tokenizer" and found["finished"].steps == 3
    assert found["finished"].curves["loss"] == [(1, 1.0), (2, 0.5), (3, 0.33333)]


def test_running_is_what_has_a_process_or_speaks(tmp_path: Path) -> None:
    run_in(tmp_path / "run")
    place = tmp_path / "run" / STATE

    def state(**values: object) -> str:
        known = json.loads(place.read_text()) | {"state": "running"} | values
        place.write_text(json.dumps(known))
        (run,) = find_runs(tmp_path)
        return run.state

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert state(pid=os.getpid()) == "running"
    assert state(pid=gone.pid) == "failed"  # killed: it could not say so
    assert state(pid=10**400) == "failed"
    assert state(host=f"not-{socket.gethostname()}") == "running"  # elsewhere: its records are new
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "loss": 1.0}\n{"step": 2, "lo')
    assert state(time=5.0) == "failed"


def test_a_broken_record_is_passed_over(tmp_path: Path) -> None:
    run_in(tmp_path, until=2)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "lo\n' + metrics.read_text() + "[]\n")
    (run,) = find_runs(tmp_path)
    assert run.curves["loss"] == [(1, 1.0), (2, 0.5)]
    run_in(tmp_path)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 1, 2, 2, 3, 3]


def test_numbers_that_no_float_holds_are_left_out(tmp_path: Path) -> None:
    run_in(tmp_path, until=2)
    (run,) = find_runs(tmp_path)
    (tmp_path / "state.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write(f'{{"step": 3, "time": {10**400}, "loss": {10**400}}}\n{{"step": 4, "time": Infinity}}\n')
    (again,) = find_runs(tmp_path)
    assert again.curves == run.curves and again.step == 4 and again.time < 1e10


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    recipe = cvivit_debug()
    recipe = replace(recipe, run=replace(recipe.run, steps=2, log_every=1, eval_every=1, trackers=()))
    train_tokenizer(recipe, tmp_path / "runs" / "<one>")
    page = tmp_path / "page.html"
    write_page(find_runs(tmp_path / "runs"), page)
    text = page.read_text()
    assert "&lt;one&gt;" in text and "<one>" not in text
    assert not re.search(r"<script|https?://|<link", text)
    assert re.findall(r'(?:src|href)="([^"]{,22})', text) == [
        "#run0",
        "data:image/png;base64,",
        "data:video/mp4;base64,",
    ]
    assert text.count("<polyline") == len(find_runs(tmp_path)[0].curves) > 10
    assert text.count(">step</text>") == text.count("<polyline") and "(dB)" in text  # axes with their units
    assert text.endswith("</html>\n")


def test_the_command(tmp_path: Path) -> None:
    run_in(tmp_path / "mine")
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["runs", str(tmp_path), "--html", str(tmp_path / "p.html")])
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.output for word in ("mine", "tokenizer", "finished", "3 of", "test/psnr 12 at 2"))
    assert (tmp_path / "p.html").exists()
    for folder, said in ((tmp_path / "none", "there is no folder"), (tmp_path / "empty", "holds no run")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        refused = CliRunner().invoke(app, ["runs", str(folder)])
        assert refused.exit_code == 2 and said in refused.output


def test_settings_outside_of_a_section_count_too(tmp_path: Path) -> None:
    """A run resumes with them as they were, and not with others."""
    recipe = cvivit_debug()
    policy = ResumePolicy(tmp_path, recipe, {}, "auto", overwrite=False)
    (tmp_path / "recipe.json").write_text(json.dumps(policy.recipe))
    ResumePolicy(tmp_path, recipe, {}, "auto", overwrite=False)
    with pytest.raises(PhenakiError, match="freeze_encoder from False to True"):
        ResumePolicy(tmp_path, replace(recipe, freeze_encoder=True), {}, "auto", overwrite=False)
