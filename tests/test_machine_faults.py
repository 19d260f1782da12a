"""Faults of machines: what is killed at any moment goes on as if nothing had happened, and a disk that is full or
read-only costs a sentence, and nothing that was there."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.models import tiny_model
from phenaki.core.errors import PhenakiError
from phenaki.core.files import UNFINISHED, write_atomic, write_folder_atomic
from phenaki.core.locks import lock_folder
from phenaki.data.pack_config import PackConfig
from phenaki.data.packing import pack
from phenaki.training.runs import find_runs, write_state

KILLS = int(os.environ.get("KILLS", 3))  # of each command; 30 take half an hour
RECORDS = {"metrics.jsonl", "state.json", "journal.jsonl", "checkpoints"}  # have times, or repeat what was repeated


def command(folder: Path, *args: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "phenaki", *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, *args: str) -> float:
    """Run a command to its end; how long it took."""
    began = time.monotonic()
    process = command(folder, *args)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return time.monotonic() - began


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of the files of an output, those with times aside."""
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    kept = [path for path in files if not RECORDS & set(path.parts) and "tfevents" not in path.name]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def story(folder: Path) -> None:
    tiny_model().save_pretrained(folder / "model")
    (folder / "story.txt").write_text("a red circle\n" + "now it turns blue\n" * 60)


def tokens(folder: Path) -> None:
    story(folder)
    pack(PackConfig((str(folder / "clips"),), str(folder / "packed"), processes=1, validation=0.0), progress=False)


COMMANDS: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "pack": (lambda folder: None, "packed", ["data", "pack", "clips", "OUT", "--processes", "2", "--fps", "8"]),
    "tokenize": (
        tokens,
        "tokens",
        ["data", "tokenize", "packed", "OUT", "--tokenizer", "model/tokenizer", "--frames", "3", "--passes", "40"],
    ),
    "train": (
        lambda folder: None,
        "run",
        ["train", "tokenizer", "--recipe", "cvivit_debug", "--out", "OUT", "run.steps=12", "run.checkpoint_every=2"],
    ),
    "story": (story, "story.mp4", ["generate", "--story", "story.txt", "--model", "model", "-o", "OUT", "--resume"]),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(name: str, clips: Path, tmp_path: Path) -> None:
    prepare, out, args = COMMANDS[name]
    (tmp_path / "clips").symlink_to(clips)
    prepare(tmp_path)
    whole = [arg.replace("OUT", f"whole_{out}") for arg in args]
    seconds = finish(tmp_path, *whole)
    args, rng = [arg.replace("OUT", out) for arg in args], random.Random(name)
    for _ in range(KILLS):
        process = command(tmp_path, *args)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:
            break
    finish(tmp_path, *args)
    assert digests(tmp_path / out) == digests(tmp_path / f"whole_{out}")
    assert not [*tmp_path.rglob(UNFINISHED)] and not [*tmp_path.rglob("*.lock")]


# ---- disks


@pytest.mark.parametrize("write", [write_atomic, write_folder_atomic])
def test_a_disk_that_takes_no_more_costs_nothing_that_was_there(tmp_path: Path, write: Callable) -> None:
    target = tmp_path / "out"
    with write(target) as first:
        (first / "file").write_bytes(b"old") if isinstance(first, Path) else first.write(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = digests(target)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the system then refuses as a full disk does
    try:
        with pytest.raises(PhenakiError, match="exceeds the largest file size"):
            with write(target) as second:
                data = b"new" * 1000
                (second / "file").write_bytes(data) if isinstance(second, Path) else second.write(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digests(target) == before and not [*tmp_path.rglob(UNFINISHED)]


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for attempt in (lambda: write_atomic(tmp_path / "a"), lambda: lock_folder(tmp_path / "b", "training")):
        with pytest.raises(PhenakiError, match="permission denied"):
            with attempt():
                pass


def test_neither_a_home_nor_a_temporary_folder_is_needed(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"TMPDIR": "/nowhere", "HOME": "/nowhere", "OMP_NUM_THREADS": "1"}
    args = ["generate", "a red circle", "--model", "model", "-o", "out.mp4"]
    ended = subprocess.run(
        [sys.executable, "-m", "phenaki", *args], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0 and (tmp_path / "out.mp4").stat().st_size > 100, ended.stderr


@pytest.mark.parametrize("jump", [-(10.0**9), 10.0**9])
def test_a_clock_that_jumps_changes_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    (tmp_path / "recipe.json").write_text('{"run": {"steps": 3}}')
    write_state(tmp_path, "running")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "loss": 2.0}\n')
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    (run,) = find_runs(tmp_path)
    assert run.state == "running" and run.step == 1
    with lock_folder(tmp_path, "training"):
        pass
