"""What a run survives: kills, broken checkpoints, full disks, steps that are not finite, processes that die or hang."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO

import pytest
import torch
from typer.testing import CliRunner

from helpers.processes import torchrun
from helpers.training import checkpointing_recipe, lasting, saved, weights
from phenaki.cli import app
from phenaki.core import files
from phenaki.core.errors import PhenakiError
from phenaki.data.sources import ProceduralSource, ShardSource, StreamConfig
from phenaki.tokenizers import CViViT
from phenaki.training import checkpoints
from phenaki.training.checkpoints import Checkpoints, load, read, step_of
from phenaki.training.config import RunConfig
from phenaki.training.generator import train_generator
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.recipes import cvivit_debug, masked_debug
from phenaki.training.run import Run
from phenaki.training.tokenizer import train_tokenizer
from phenaki.worlds.shapes import ShapesDataset

CPU = torch.device("cpu")


def kept(folder: Path) -> list[int]:
    return [step_of(path) for path in Checkpoints(folder, 1, 0, print).found()]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Iterator[Checkpoints]:
    store = Checkpoints(tmp_path, 2, 0, said.append)
    yield store
    store.join()


# ---- checkpoints


def test_what_is_trained_on_after_a_save_is_not_in_it(store: Checkpoints) -> None:
    weight = torch.ones(1000, 100)
    store.save(3, {"state": {"nested": [{"weight": weight}, (weight[:2], 7, "text")]}})
    weight.zero_()
    store.wait()
    nested = load(store.newest(), CPU)["state"]["nested"]
    assert nested[0]["weight"].min() == 1
    assert nested[1][0].min() == 1 and nested[1][1:] == (7, "text")


def test_the_newest_stay_and_those_of_every_so_many_steps(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, 2, 6, print)
    for step in range(1, 16):
        store.save(step, {})
        store.wait()
    assert kept(tmp_path) == [15, 14, 12, 6]


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied"])
def test_a_broken_newest_one_is_passed_over_in_a_sentence(harm: str, store: Checkpoints, said: list[str]) -> None:
    for step in (1, 2):
        store.save(step, {"weight": torch.rand(500)})
        store.wait()
    newest = store.found()[0]
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    newest.write_bytes({"cut": content[:middle], "flipped": content, "emptied": b""}[harm])
    assert load(store.newest(), CPU)["step"] == 1
    (sentence,) = said
    assert sentence.startswith("skipped: ") and "step_0000002.pt" in sentence and "corrupt" in sentence
    store.found()[1].write_bytes(b"")
    with pytest.raises(PhenakiError, match="no checkpoint in .* is complete .*step_0000001.pt.*--resume never"):
        store.newest()


def test_damage_of_the_directory_is_passed_over(store: Checkpoints) -> None:
    for step in (1, 2):
        store.save(step, {"weight": torch.rand(500)})
        store.wait()
    newest = store.found()[0]
    sound = newest.read_bytes()
    directory = sound.index(b"PK\x01\x02")
    for at in range(directory, len(sound), 5):
        newest.write_bytes(sound[:at] + bytes([sound[at] ^ 8]) + sound[at + 1 :])
        assert load(store.newest(), CPU)["step"] in (1, 2)


@pytest.mark.parametrize("content", [7, {}, {"format": "2"}, {"format": 2}, {"format": 2, "step": 1}, {"format": 1.5}])
def test_other_contents_are_passed_over(content: object, store: Checkpoints, said: list[str]) -> None:
    for step in (1, 2):
        store.save(step, {})
        store.wait()
    torch.save(content, store.found()[0])
    assert load(store.newest(), CPU)["step"] == 1 and "step_0000002.pt" in said[0]


@pytest.mark.parametrize("damage", ["state", "weight", "optimizers", "data", "recipe"])
def test_a_run_takes_an_older_checkpoint_if_the_newest_is_damaged(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = checkpointing_recipe(steps=4)
    train_tokenizer(recipe, tmp_path)
    expected = {name: tensor.clone() for name, tensor in weights(tmp_path).items()}  # those of the file are mapped
    path = tmp_path / "checkpoints" / "step_0000004.pt"
    content = torch.load(path, weights_only=True)
    match damage:
        case "state" | "recipe":
            content[damage] = []
        case "weight":
            content["state"]["tokenizer"]["norm_latents.weight"] = torch.zeros(3)
        case _:
            content["state"][damage] = {"0": 1}
    torch.save(content, path)
    train_tokenizer(recipe, tmp_path)
    assert "skipped: " in capsys.readouterr().err
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path).items())


def test_a_full_disk_costs_no_checkpoint_but_the_new_one(
    store: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, {"weight": torch.ones(5)})
    store.wait()

    class Full:
        def __init__(self, file: object):
            self.file, self.name = file, file.name

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    save = checkpoints.save_archive
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_archive", lambda state, file: save(state, Full(file)))
        store.save(2, {"weight": torch.ones(5)})
        with pytest.raises(PhenakiError, match="step_0000002.pt': the disk is full"):
            store.wait()
    assert len(said) == 1 and said[0].startswith("no checkpoint was written after step 2; older ones are kept: Cannot")
    assert [path.name for path in store.folder.iterdir()] == ["step_0000001.pt"]
    store.save(3, {})  # there is space again
    store.wait()
    assert load(store.newest(), CPU)["step"] == 3


def test_what_is_not_on_the_disk_as_it_was_written_takes_no_name(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoints.save_archive

    def badly(state: object, file: object) -> None:
        save(state, file)
        file.seek(100)
        file.write(b"\xff\xff\xff")

    monkeypatch.setattr(checkpoints, "save_archive", badly)
    store.save(1, {"weight": torch.zeros(50)})
    with pytest.raises(PhenakiError, match="does not read back as it was written"):
        store.wait()
    assert store.found() == []


def test_a_checkpoint_of_a_newer_version_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_FORMAT", checkpoints._FORMAT + 1)
        patch.setattr(checkpoints, "__version__", "9.1")
        train_tokenizer(checkpointing_recipe(2), tmp_path)
    with pytest.raises(
        PhenakiError, match=r"written by phenaki 9.1, which is newer than this one .*: resume with that"
    ):
        train_tokenizer(checkpointing_recipe(3), tmp_path)


# ---- going on


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(checkpointing_recipe(4), tmp_path / "parts")
    newest = tmp_path / "parts" / "checkpoints" / "step_0000004.pt"
    newest.write_bytes(newest.read_bytes()[:3000])
    stale = newest.parent / ".phenaki-000000000000.tmp"
    stale.write_bytes(b"of a kill in the middle of writing")
    capsys.readouterr()
    train_tokenizer(checkpointing_recipe(6), tmp_path / "parts")
    assert "skipped" in capsys.readouterr().err
    assert not stale.exists()
    assert kept(tmp_path / "parts") == [6, 4]
    assert max(lines(tmp_path / "parts")) == 6 and lines(tmp_path / "parts").count(3) == 1


def test_resume_from_a_file_takes_that_one_back(tmp_path: Path) -> None:
    recipe = checkpointing_recipe(6, keep=9)
    train_tokenizer(recipe, tmp_path / "a")
    first = weights(tmp_path / "a")
    second = tmp_path / "a" / "checkpoints" / "step_0000002.pt"
    train_tokenizer(recipe, tmp_path / "b", resume=str(second))  # in a new folder
    assert kept(tmp_path / "b") == [6, 4]
    with pytest.raises(PhenakiError, match=r"already holds a run: name another one.*--overwrite"):
        train_tokenizer(recipe, tmp_path / "b", resume=str(second))
    assert kept(tmp_path / "b") == [6, 4]
    train_tokenizer(recipe, tmp_path / "a", resume=str(second))  # in its own
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert all(torch.equal(value, first[name]) for name, value in weights(folder).items())
    lower = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e-5))
    train_tokenizer(lower, tmp_path / "c", resume=str(second))  # what a broken run is told to do
    with pytest.raises(PhenakiError, match="there is no checkpoint|cannot be read: No such file"):
        train_tokenizer(recipe, tmp_path / "d", resume=str(tmp_path / "none.pt"))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, tokenizer: CViViT) -> None:
    train_tokenizer(checkpointing_recipe(2), tmp_path / "a")
    file = str(tmp_path / "a" / "checkpoints" / "step_0000002.pt")
    recipe = checkpointing_recipe(2)
    other = replace(recipe, tokenizer=replace(recipe.tokenizer, width=128))
    with pytest.raises(PhenakiError, match=r"step_0000002.pt' does not fit this run: .*tokenizer.width from 64 to 128"):
        train_tokenizer(other, tmp_path / "b", resume=file)
    with pytest.raises(PhenakiError, match="does not fit this run: it belongs to another stage"):
        train_generator(lasting(masked_debug(), 1), tmp_path / "c", tokenizer, resume=file)
    small = replace(recipe.discriminator, width=4, blocks=2)
    adversarial = replace(recipe, loss=replace(recipe.loss, adversarial=0.1), discriminator=small)
    with pytest.raises(PhenakiError, match="does not fit this run: .*discriminator.width|has other networks"):
        train_tokenizer(adversarial, tmp_path / "f", resume=file)
    adam = replace(checkpointing_recipe(2), optimizer=replace(checkpointing_recipe(2).optimizer, kind="adamw"))
    with pytest.raises(PhenakiError, match="its optimizers has other tensors or sizes"):
        train_tokenizer(adam, tmp_path / "d", resume=file)
    torch.save({"weight": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(PhenakiError, match="no checkpoint of a run"):
        train_tokenizer(checkpointing_recipe(2), tmp_path / "e", resume=str(tmp_path / "foreign.pt"))


def test_a_run_is_removed_only_where_that_is_said(tmp_path: Path) -> None:
    train_tokenizer(checkpointing_recipe(2), tmp_path)
    (tmp_path / "mine.txt").write_text("not the run's")
    other = replace(checkpointing_recipe(2), loss=replace(checkpointing_recipe(2).loss, l1=0.5))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(PhenakiError, match=r"loss.l1 from 0.0 to 0.5.*--overwrite"):
        train_tokenizer(other, tmp_path)
    with pytest.raises(PhenakiError, match=r"already holds a run: name another one.*--overwrite"):
        train_tokenizer(checkpointing_recipe(2), tmp_path, resume="never")
    with pytest.raises(PhenakiError, match="--overwrite would remove .* together with its run"):
        train_tokenizer(other, tmp_path, resume=str(Checkpoints(tmp_path, 1, 0, print).found()[0]), overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    train_tokenizer(checkpointing_recipe(4), tmp_path, overwrite=True)  # the same recipe: it goes on
    assert lines(tmp_path) == [1, 2, 2, 3, 4, 4]
    train_tokenizer(other, tmp_path, overwrite=True)
    assert kept(tmp_path) == [2] and set(lines(tmp_path)) == {1, 2}
    assert saved(tmp_path)["recipe"]["loss"]["l1"] == 0.5
    assert (tmp_path / "mine.txt").exists()
    train_tokenizer(other, tmp_path / "new", resume="never")


def test_the_command_line_knows_how_to_go_on(tmp_path: Path) -> None:
    train_tokenizer(checkpointing_recipe(2), tmp_path)
    command = ["train", "tokenizer", "--recipe", "cvivit_debug", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*command, "run.steps=2"])
    assert result.exit_code == 2 and "started with another recipe" in result.stderr
    result = CliRunner().invoke(app, [*command, "run.steps=2", "--overwrite"])
    assert result.exit_code == 0 and kept(tmp_path) == [2]
    result = CliRunner().invoke(app, [*command, "run.steps=2", "--resume", str(tmp_path / "none.pt")])
    assert result.exit_code == 2 and "none.pt' cannot be read" in result.stderr


# ---- kills


def train_and_die(where: str, train: Callable[..., object], *args: object) -> None:
    """Train until a SIGKILL: after the third step, or halfway through the second checkpoint."""
    log, save, logs, saves = Run.log, checkpoints.save_archive, [], []

    def log_and_die(self: Run, **values: float) -> None:
        log(self, **values)
        logs.append(1)
        if where == "step" and len(logs) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def half(state: object, file: IO[bytes]) -> None:
        saves.append(1)
        save(state, file)
        if where == "writing" and len(saves) == 2:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    Run.log, checkpoints.save_archive = log_and_die, half
    train(*args)


def killed(where: str, train: Callable[..., object], *args: object) -> bool:
    """Whether a process that trains was killed. A new one: torch refuses to train in a fork of a process that has."""
    context = multiprocessing.get_context("forkserver")  # one import of torch for all of them
    context.set_forkserver_preload([__name__])
    process = context.Process(target=train_and_die, args=(where, train, *args))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over several threads have another order, and the processes of `killed` have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_that_was_killed_ends_like_one_that_was_not(stage: str, tmp_path: Path, tokenizer: CViViT) -> None:
    """benchmarks/surviving.py does the same at random moments."""
    second = lasting(masked_debug(), 9)
    second = replace(second, run=replace(second.run, checkpoint_every=2))
    first = stage == "first"
    train = train_tokenizer if first else train_generator

    def args(name: str) -> tuple[object, ...]:
        return (checkpointing_recipe(9), tmp_path / name) if first else (second, tmp_path / name, tokenizer)

    train(*args("whole"))
    for where in ("step", "step", "writing"):
        assert killed(where, train, *args("parts"))
    assert list((tmp_path / "parts" / "checkpoints").glob(".phenaki-*"))
    train(*args("parts"))
    uninterrupted, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert uninterrupted.keys() == parts.keys() and len(uninterrupted) > 50
    assert all(torch.equal(uninterrupted[name], parts[name]) for name in uninterrupted)
    assert saved(tmp_path / "whole")["state"]["data"] == saved(tmp_path / "parts")["state"]["data"]
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


# ---- steps that are not finite


class Spoiler:
    """Makes the loss of some steps not a number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: set[int]):
        from phenaki.training import tokenizer

        original, self.calls = tokenizer.pixel_losses, -1

        def losses(*arguments: object) -> dict[str, torch.Tensor]:
            self.calls += 1
            factor = float("inf") if self.calls in steps else 1.0
            return {name: factor * loss for name, loss in original(*arguments).items()}

        monkeypatch.setattr(tokenizer, "pixel_losses", losses)


def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spoiler(monkeypatch, {2, 3})
    train_tokenizer(checkpointing_recipe(2), tmp_path)
    before = weights(tmp_path)
    Spoiler(monkeypatch, set(range(2)))
    train_tokenizer(checkpointing_recipe(4), tmp_path)
    after = weights(tmp_path)
    changed = {name.split(".")[1] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set()
    last = saved(tmp_path)
    assert (last["step"], last["skipped"]) == (4, 2)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in records if "skipped" in line] == [1, 2]
    assert [line["step"] for line in records if line.get("alarm") == "step skipped"] == [3]
    Spoiler(monkeypatch, set())
    train_tokenizer(checkpointing_recipe(6), tmp_path)  # it learns again, and still knows how many
    assert saved(tmp_path)["skipped"] == 2
    assert not all(torch.equal(value, after[name]) for name, value in weights(tmp_path).items())


def test_several_in_a_row_end_the_run_and_leave_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tokenizer(checkpointing_recipe(2), tmp_path)
    before = weights(tmp_path)
    Spoiler(monkeypatch, set(range(99)) - {2})  # two, a good one, then three
    with pytest.raises(PhenakiError, match=r"loss became inf at step 7; 3 steps .*--resume .*step_0000006.pt"):
        train_tokenizer(checkpointing_recipe(99, bad_steps=3), tmp_path)
    assert saved(tmp_path)["step"] == 6
    assert before.keys() == weights(tmp_path).keys()
    assert all(value.isfinite().all() for value in weights(tmp_path).values() if value.is_floating_point())


def test_no_process_takes_a_step_that_one_cannot(tmp_path: Path) -> None:
    """A loss that is not finite spoils its process's gradients, and so the mean of all."""
    network = torch.nn.Linear(2, 2)
    optimizers = Optimizers([network], OptimizerConfig(), 10_000)
    before = network.weight.detach().clone()
    reducer = Run(tmp_path, RunConfig(), cvivit_debug()).gradient_reducer(optimizers.parameters)
    for loss, moved in ((float("inf"), False), (torch.tensor(float("nan")), False), (torch.tensor(1.0), True)):
        network(torch.ones(1, 2)).sum().backward()  # finite gradients
        reducer.finish(loss)
        optimizers.update(1000)
        assert torch.equal(network.weight, before) != moved


# ---- processes


ALONE = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from phenaki.training.recipes import cvivit_debug
from phenaki.training.run import Run
import torch
recipe = cvivit_debug()
config = replace(recipe.run, steps=10**6, log_every=10**6, eval_every=20, timeout=float(os.environ["PATIENCE"]))
folder = Path(sys.argv[1])
weight = torch.nn.Linear(2, 2)
with Run(folder, config, recipe) as run:
    (folder / f"pid{run.rank}").write_text(str(os.getpid()))
    reducer = run.gradient_reducer(weight.parameters())
    for step in run.steps({"linear": weight}):
        weight(torch.ones(1, 2)).sum().backward()
        reducer.finish(0.0)
        if run.is_main and step == 19:
            time.sleep(float(os.environ["PICTURES"]))
        if step == 40:
            (folder / f"far{run.rank}").touch()
        time.sleep(0.005)
"""


def launch(tmp_path: Path, port: int, timeout: float, pictures: float) -> list[subprocess.Popen[str]]:
    """Two processes as a cluster starts them: nothing watches over them."""
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"PATIENCE": str(timeout), "PICTURES": str(pictures)}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "run")],
            env={**os.environ, **common, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until(path: Path, processes: list[subprocess.Popen[str]], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end and all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "victim"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)])
def test_a_process_that_dies_or_hangs_ends_the_others_with_a_sentence(
    number: signal.Signals, victim: int, tmp_path: Path
) -> None:
    """Pictures that take longer than the timeout are waited for; whoever is gone is not."""
    timeout = 3.0
    processes = launch(tmp_path, free_port(), timeout, pictures=1.5 * timeout)
    try:
        for rank in range(2):
            wait_until(tmp_path / "run" / f"far{rank}", processes)
        processes[victim].send_signal(number)
        _, error = processes[1 - victim].communicate(timeout=30)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1 - victim].returncode == 1  # the script has no command line around it
    if victim == 1:
        assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "failed"
    last = error.strip().splitlines()[-1]
    assert re.search(rf"process {1 - victim} of 2 waited in vain .* 3 s \(run.timeout\)", last), error


RESUME = """
import os, sys, threading, time
from dataclasses import replace
from pathlib import Path
import torch
from phenaki.training.optim import Optimizers, averaged
from phenaki.training.recipes import cvivit_debug
from phenaki.training.run import Run

recipe = cvivit_debug()
config = replace(recipe.run, steps=2, checkpoint_every=1, log_every=10**6, timeout=5.0, trackers=())
network = torch.nn.Linear(1024, int(sys.argv[2]), bias=False)
optimizers = Optimizers([network], replace(recipe.optimizer, kind="adamw"), 2)
state = {"network": network, "ema": averaged(network, 0.9), "optimizers": optimizers}
resident = lambda pid: next(
    1024 * int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:")
)
peak = 0
def watch(pids):
    global peak
    while True:
        peak = max(peak, sum(map(resident, pids)))
        time.sleep(0.01)
with Run(sys.argv[1], config, recipe) as run:
    if run.world_size == 1:
        network.weight.grad = torch.ones_like(network.weight)
        optimizers.update(0)
        run.step = 1
        run._logger.begin(1)
        run._open_records()
        run.save(state)
        run._checkpoints.wait()
    else:
        pids = run.processes.gather(os.getpid())
        if run.is_main:
            threading.Thread(target=watch, args=[pids], daemon=True).start()
        run.restore(state)
        run.processes.gather(None)
        end = sum(map(resident, pids))
        assert run.step == 1 and len(optimizers.optimizers[0].state) == 1
        size = (Path(sys.argv[1]) / "checkpoints" / "step_0000001.pt").stat().st_size
        if run.is_main:
            print(f"beyond the end {(peak - end) / size:.2f} of {size / 1e6:.0f} MB")
            assert peak - end < size
        run.processes.gather(None)
"""


@pytest.mark.slow
def test_four_processes_resume_within_the_size_of_the_checkpoint(tmp_path: Path) -> None:
    """Beyond what they hold in the end, and with the defaults of all waits but a short one for signs of life."""
    script = tmp_path / "resume.py"
    script.write_text(RESUME)
    subprocess.run([sys.executable, str(script), str(tmp_path / "run"), "16384"], check=True)
    torchrun(script, tmp_path / "run", 16384, processes=4)


def test_what_only_the_main_process_sees_is_sent(tmp_path: Path) -> None:
    """Tensor by tensor: two processes, of which the second finds no file."""
    script = tmp_path / "receive.py"
    script.write_text(
        "import os, sys, torch\n"
        "from pathlib import Path\n"
        "from phenaki.training import checkpoints\n"
        "from phenaki.training.processes import Processes\n"
        "processes = Processes(torch.device('cpu'), 60.0)\n"
        "processes.join()\n"
        "path = Path(sys.argv[1])\n"
        "content = checkpoints.read(path) if processes.is_main else checkpoints.Content(path / 'elsewhere', 1)\n"
        "saved = checkpoints.receive(content, processes)\n"
        "assert saved['state']['nested'][0].tolist() == [0, 1, 2] and saved['step'] == 7\n"
        "processes.leave(None)\n"
    )
    store = Checkpoints(tmp_path, 1, 0, print)
    store.save(7, {"state": {"nested": [torch.arange(3)]}})
    store.wait()
    torchrun(script, store.found()[0])


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        processes = launch(tmp_path, port, 3.0, 0)
        try:
            _, error = processes[0].communicate(timeout=60)
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    assert f"the port at 127.0.0.1:{port} is in use" in error.strip().splitlines()[-1]


def test_another_number_of_processes_goes_on_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from helpers.training import checkpointing_recipe\n"
        "from phenaki.training.tokenizer import train_tokenizer\n"
        "train_tokenizer(checkpointing_recipe(int(sys.argv[2])), sys.argv[1])\n"
    )
    torchrun(script, tmp_path / "run", 3)
    train_tokenizer(checkpointing_recipe(5), tmp_path / "run")
    assert "written by 2 processes and is resumed by 1: the data come in another order" in capsys.readouterr().err
    assert saved(tmp_path / "run")["step"] == 5
    (process,) = saved(tmp_path / "run")["state"]["data"]["processes"]
    assert process["yielded"] == 5


def test_streams_of_another_number_go_on_as_far_into_the_data() -> None:
    world = ProceduralSource(ShapesDataset({}, seed=0, split="train", size=(16, 16), frames=3))
    seen, positions = [], []
    for index in range(3):
        taken = list(islice(world.items(StreamConfig(index=index, count=3), {}), 4))
        seen += [item for item, _ in taken]
        positions.append(taken[-1][1])
    position = world.resharded(positions, 2)
    following = [
        item for index in range(2) for item, _ in islice(world.items(StreamConfig(index=index, count=2), position), 3)
    ]
    assert sorted(seen + following) == list(range(18))

    shards = ShardSource([f"{number}.tar" for number in range(6)])
    assert shards.resharded([{"part": 2}, {"part": 2}, {"part": 2}], 1) == {"part": 6}  # one epoch
    assert shards.resharded([{"part": 2}, {"part": 2}, {}], 2) == {"part": 2}
    assert shards.resharded([{"part": 12}], 12) == {"part": 2}  # two epochs, of which each stream has a part


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_within_the_step(number: signal.Signals, tmp_path: Path) -> None:
    recipe = checkpointing_recipe(10)
    linear = torch.nn.Linear(2, 2)
    with Run(tmp_path, replace(recipe.run, checkpoint_every=100), recipe) as run:
        for step in run.steps({"linear": linear}):
            linear.weight.data.fill_(step)
            if step == 4:
                os.kill(os.getpid(), number)
    last = saved(tmp_path)
    assert last["step"] == 5
    assert last["state"]["linear"]["weight"].max() == 4


def test_a_run_waits_for_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that ends by an error; and training goes on while a checkpoint is written."""
    began, write = [], files.os.replace
    order: list[str] = []

    def slowly(*arguments: object) -> None:
        if "checkpoints" in str(arguments[1]):
            began.append(1)
            time.sleep(0.5)
            order.append("written")
        write(*arguments)

    monkeypatch.setattr(files.os, "replace", slowly)
    recipe = checkpointing_recipe(10)
    with pytest.raises(RuntimeError, match="a bug"), Run(tmp_path, recipe.run, recipe) as run:
        for step in run.steps({}):
            order.append(f"step {step}")
            if step == 3:
                raise RuntimeError("a bug")
    assert order == ["step 0", "step 1", "step 2", "step 3", "written"]
    assert kept(tmp_path) == [2]
    read(tmp_path / "checkpoints" / "step_0000002.pt")
