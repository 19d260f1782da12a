"""Figures, pictures and videos of a run arrive at each tracker; one that cannot be used is refused in a sentence."""

from __future__ import annotations

import errno
import importlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from phenaki.core.components import load_component
from phenaki.core.errors import PhenakiError
from phenaki.media.montage import mosaic
from phenaki.media.reader import read_video
from phenaki.tokenizers import CViViT
from phenaki.training.config import RunConfig
from phenaki.training.generator import train_generator
from phenaki.training.recipes import cvivit_debug, masked_debug
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerRecipe, train_tokenizer
from phenaki.training.track import Preview, ThroughputMeter

FAKE = """
from types import SimpleNamespace
calls, key, answers, reachable = [], True, True, True
class Error(Exception): pass
errors = SimpleNamespace(Error=Error)
def login(prompt):
    assert prompt is False, "it must not ask on the terminal"
    if not answers: raise Error("the server is silent")
    return key
def Settings(**values): return values
def Image(path): return ("image", open(path, "rb").read(4))
def Video(path, format): return ("video", format)
class Run:
    def log(self, values, step): calls.append((step, values))
    def alert(self, title, text): calls.append(("alert", title, text))
    def finish(self): calls.append("finish")
def init(**options):
    if not reachable: raise Error("no route to host\\nmore")
    calls.append(options)
    return Run()
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the package, which keeps what it is told in `calls`."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    yield importlib.import_module("wandb")
    sys.modules.pop("wandb")


def short(recipe, **values):
    values = {"steps": 2, "log_every": 1, "eval_every": 1, "checkpoint_every": 1} | values
    return replace(recipe, run=replace(recipe.run, **values))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_wandb_gets_what_metrics_get_and_the_pictures(tmp_path: Path, wandb: ModuleType) -> None:
    recipe = short(cvivit_debug(), trackers=("wandb",))
    train_tokenizer(recipe, tmp_path / "run")
    begun, *told, end = wandb.calls
    assert begun["project"] == "phenaki" and begun["config"]["run"]["steps"] == 2 and begun["dir"] == tmp_path / "run"
    assert end == "finish"
    logged = {(step, name) for step, values in told for name in values}
    recorded = {(line["step"], name) for line in lines(tmp_path / "run") for name in line.keys() - {"step", "time"}}
    assert recorded <= logged
    assert logged - recorded == {(s, n) for s in (1, 2) for n in ("reconstruction", "reconstruction_video")}
    shown = {name: value for _, values in told for name, value in values.items()}
    assert shown["reconstruction"] == ("image", b"\x89PNG") and shown["reconstruction_video"] == ("video", "mp4")
    assert not list((tmp_path / "run").glob("events.out.tfevents*"))  # it was not asked for


def test_a_run_that_goes_on_is_the_same_run_in_wandb(tmp_path: Path, wandb: ModuleType) -> None:
    for steps in (1, 2):
        train_tokenizer(short(cvivit_debug(), trackers=("wandb",), steps=steps), tmp_path / "run")
    train_tokenizer(short(cvivit_debug(), trackers=("wandb",), steps=1), tmp_path / "other")
    first, again, other = (call["id"] for call in wandb.calls if isinstance(call, dict))
    assert first == again != other


def refused(recipe: TokenizerRecipe, folder: Path) -> str:
    with pytest.raises(PhenakiError) as caught:
        train_tokenizer(recipe, folder)
    assert not (folder / "recipe.json").exists()
    return str(caught.value)


def test_wandb_without_package_key_or_network_is_a_sentence(
    tmp_path: Path, wandb: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = short(cvivit_debug(), trackers=("wandb",))
    wandb.key = False
    assert "which has no key: run `wandb login`" in refused(recipe, tmp_path / "run")
    wandb.key, wandb.answers = True, False
    assert "cannot be reached (the server is silent): set WANDB_MODE" in refused(recipe, tmp_path / "run")
    wandb.answers, wandb.reachable = True, False
    assert "cannot be reached (no route to host): set WANDB_MODE=offline" in refused(recipe, tmp_path / "run")
    wandb.key, wandb.reachable = False, True
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_tokenizer(recipe, tmp_path / "run")  # offline needs no key
    assert wandb.calls[-1] == "finish"
    monkeypatch.setattr("phenaki.training.track.importlib.util.find_spec", lambda name: None)
    assert "which is not installed: pip install 'phenaki[wandb]'" in refused(recipe, tmp_path / "other")


def test_nobody_imports_wandb_unasked(tmp_path: Path, wandb: ModuleType) -> None:
    del sys.modules["wandb"]
    train_tokenizer(short(cvivit_debug(), steps=1), tmp_path / "run")
    assert "wandb" not in sys.modules
    sys.modules["wandb"] = wandb


def test_pictures_and_playing_videos_of_the_same_clips_and_prompts(tmp_path: Path, tokenizer: CViViT) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# of old\na red circle\n\n  a blue square \n")
    recipe = short(masked_debug(), prompts=str(prompts), trackers=())
    train_generator(recipe, tmp_path / "run", tokenizer)
    for step in (1, 2):
        for name, clips in (("samples", 12), ("prompts", 2)):
            file = tmp_path / "run" / f"{name}_{step:07d}"
            assert file.with_suffix(".png").exists()
            video = read_video(file.with_suffix(".mp4"))
            columns, rows = min(clips, 4), -(-clips // 4)
            assert video.frames.shape == (5, 34 * rows - 2, 34 * columns - 2, 3) and video.fps == 8
    speeds = ("clips_per_second", "waiting_for_data", "memory_gb")
    first = lines(tmp_path / "run")[0]
    assert all(first[f"speed/{name}"] > 0 for name in speeds) and first["speed/waiting_for_data"] < 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("# no\n", "holds 0 prompts"),
        ("a\n" * 33, "holds 33 prompts"),
        ("a\n" + "b " * 65, "has 65 words"),
    ],
)
def test_prompts_that_cannot_be_drawn(text: str | None, said: str, tmp_path: Path, tokenizer: CViViT) -> None:
    path = tmp_path / "prompts.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PhenakiError, match=said):
        train_generator(short(masked_debug(), prompts=str(path)), tmp_path / "run", tokenizer)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_reads_no_prompts(tmp_path: Path) -> None:
    assert "a tokenizer reads no prompts" in refused(short(cvivit_debug(), prompts="p.txt"), tmp_path / "run")


def test_alarms_and_values_reach_all_and_pictures_tensorboard(tmp_path: Path) -> None:
    recipe = cvivit_debug()
    config = RunConfig(steps=1, log_every=1)
    clip = np.zeros((3, 8, 8, 3), np.uint8)
    with Run(tmp_path, config, recipe) as run:
        for _ in run.steps({}):
            run.alarm("name", "a sentence")
            run.show("picture", Preview([clip, clip]), fps=8)
            run.log(loss=1.0)
    assert {"alarm": "name", "sentence": "a sentence"}.items() <= lines(tmp_path)[0].items()
    (events,) = tmp_path.glob("events.out.tfevents*")
    content = events.read_bytes()
    assert all(name in content for name in (b"alarm/name", b"a sentence", b"picture", b"loss", b"clips_per_second"))


def test_pace_tells_waiting_from_working() -> None:
    pace = ThroughputMeter(torch.device("cpu"), world_size=2)

    def slow():
        while True:
            time.sleep(0.03)
            yield {"captions": ["a", "b", "c"]}

    batches = slow()
    pace.reset()
    for _ in range(2):
        pace.next(batches)
        time.sleep(0.01)
    metrics = pace.metrics()
    assert 0.5 < metrics["speed/waiting_for_data"] < 0.95
    assert 20 < metrics["speed/clips_per_second"] <= 2 * 6 / 0.08
    assert pace.metrics()["speed/clips_per_second"] == 0  # counted anew


def test_a_mosaic_lays_clips_out_row_by_row() -> None:
    clips = [np.full((2, 4, 6, 3), number, np.uint8) for number in range(5)]
    laid = mosaic(clips, columns=2, gap=1)
    assert laid.shape == (2, 3 * 4 + 2, 2 * 6 + 1, 3)
    assert [int(laid[0, 5 * row, 7 * column, 0]) for row in range(3) for column in range(2)] == [0, 1, 2, 3, 4, 255]
    assert mosaic(clips[:1], columns=2).shape == clips[0].shape


def test_what_cannot_be_recorded_is_said_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recipe = short(cvivit_debug(), steps=3, trackers=())
    for name in ("phenaki.training.track.Metrics._write", "phenaki.training.metrics.write_image"):
        monkeypatch.setattr(name, full)
    model = train_tokenizer(recipe, tmp_path)
    said = capsys.readouterr()
    assert "not recorded at step 1: [Errno 28] No space left on device" in said.out + said.err
    assert load_component(model, "tokenizer") and list((tmp_path / "checkpoints").iterdir())
