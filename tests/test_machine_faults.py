"""Faults of machines: what is killed at any moment goes on as if nothing had happened, and a disk that is full or
read-only costs a sentence, and nothing that was there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from fuzz.models import tiny_model
from helpers.children import children_of
from phenaki.cli import main
from phenaki.core.errors import PhenakiError
from phenaki.core.files import UNFINISHED, write_atomic, write_folder_atomic
from phenaki.core.locks import lock_folder
from phenaki.data.pack_config import PackConfig
from phenaki.data.packing import pack
from phenaki.training.runs import find_runs, write_state

KILLS = int(os.environ.get("KILLS", 3))  # of each command
IN_PROGRESS = (UNFINISHED, "*.lock", "events.out.tfevents.*")
RECORDS = {"metrics.jsonl", "state.json", "journal.jsonl", "checkpoints"}  # have times, or repeat what was repeated
PRELOADED = ["phenaki.cli", "phenaki.pipeline", "phenaki.data.tokenizing", "phenaki.training.tokenizer"]


def start(folder: Path, *args: str) -> BaseProcess:
    """A process that runs a command. It is forked from one that has imported torch, and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=run, args=(folder, args))
    process.start()
    return process


def run(folder: Path, args: tuple[str, ...]) -> None:
    os.chdir(folder)
    sys.argv = ["phenaki", *args]
    sys.stdout = sys.stderr = open("said.txt", "a")
    torch.set_num_threads(1)
    main()


def cpu_seconds(pid: int) -> float:
    """Of a process and its living children: unlike those of the clock, the same however busy the machine is."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = children_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with those of children that have ended
    return own + sum(cpu_seconds(int(child)) for child in children)


def finish(process: BaseProcess) -> float:
    """Wait for the end of a command; its seconds of the processor."""
    seconds = 0.0
    while process.is_alive():
        seconds = max(seconds, cpu_seconds(process.pid))
        process.join(0.02)
    assert process.exitcode == 0
    return seconds


def killed(process: BaseProcess, after: float) -> bool:
    """Kill a command after so many seconds of the processor; False if it ended before."""
    while process.is_alive() and cpu_seconds(process.pid) < after:
        process.join(0.005)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of the files of an output, those with times and those that are not finished aside."""
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    kept = [path for path in files if not RECORDS & set(path.parts) and not _is_in_progress(path)]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def _is_in_progress(path: Path) -> bool:
    return any(each.match(pattern) for each in (path, *path.parents) for pattern in IN_PROGRESS)


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
    "record": (
        lambda folder: pytest.importorskip("vizdoom"),
        "recording",
        ["data", "record", "doom", "OUT", "--train", "0.1", "--new-starts", "0", "--shortest", "1", "--longest", "2"]
        + ["--scenario", "maze"],
    ),
    "story": (story, "story.mp4", ["generate", "--story", "story.txt", "--model", "model", "-o", "OUT", "--resume"]),
}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(name: str, clips: Path, tmp_path: Path) -> None:
    """It is killed, resumed and killed again until it ends; then from the start, until it was killed KILLS times."""
    prepare, out, args = COMMANDS[name]
    (tmp_path / "clips").symlink_to(clips)
    prepare(tmp_path)
    seconds = finish(start(tmp_path, *[arg.replace("OUT", f"whole_{out}") for arg in args]))
    whole, rng = digests(tmp_path / f"whole_{out}"), random.Random(name)
    args, kills = [arg.replace("OUT", out) for arg in args], 0
    while kills < KILLS:
        if killed(start(tmp_path, *args), rng.uniform(0, 1) * seconds):
            kills += 1
            assert digests(tmp_path / out).items() <= whole.items()  # nothing is half-written
        else:
            assert digests(tmp_path / out) == whole
            remove(tmp_path / out)
    finish(start(tmp_path, *args))
    assert digests(tmp_path / out) == whole
    assert not [*tmp_path.rglob(UNFINISHED)] and not [*tmp_path.rglob("*.lock")]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_killed_server_of_play_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from helpers.playing import Client, causal_model

    causal_model(tiny_model().components).save_pretrained(tmp_path / "model")
    (tmp_path / "temporary").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    args = [sys.executable, "-m", "phenaki", "play", "model", "--port", port, "--sessions", "1"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    rng, seen = random.Random(0), []
    for _ in range(KILLS):
        with subprocess.Popen(args, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert "http" in server.stdout.readline() + server.stdout.readline()
            with Client(f"127.0.0.1:{port}", open_timeout=60) as client:
                client.start(seed=3)
                seen.append([client.step()[1] for _ in range(rng.randrange(1, 5))])
                time.sleep(rng.uniform(0, 0.5))
                workers = children_of(server.pid)
                server.kill()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < end, "a worker survives its server"
            time.sleep(0.1)
    longest = max(seen, key=len)
    assert all(np.array_equal(one, two) for steps in seen for one, two in zip(steps, longest, strict=False))
    assert workers and {path.name[:13] for path in (tmp_path / "temporary").iterdir()} <= {"torchinductor"}


def remove(out: Path) -> None:
    shutil.rmtree(out) if out.is_dir() else out.unlink()


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
