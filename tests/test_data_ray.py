"""A cluster packs and tokenizes what one machine does, whichever of its workers are lost, and the driver too."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import media_files
from helpers.servers import BUCKET, serve_s3
from phenaki.cli import app
from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.data import pack_workers, packing
from phenaki.data.config import SourceConfig
from phenaki.data.cuts import Cutting
from phenaki.data.engines import LocalProcesses, check_engine
from phenaki.data.journal import Journal
from phenaki.data.packing import PackConfig, pack
from phenaki.data.ray_cluster import ray_cluster
from phenaki.data.shards import read_shard
from phenaki.data.storage import expand, open_atomic
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.data.tokenizing_units import tokenize_on
from phenaki.tokenizers import CViViT


class InProcess:
    """A cluster of this process alone, which runs each unit twice: a worker may be lost after its work."""

    unit_size = 3

    def __init__(self) -> None:
        self.units: list[Any] = []

    def count(self, resource: str) -> int:
        return 1 if resource == "CPU" else 0

    def put(self, value: Any) -> Any:
        return value

    def map(
        self, function: Callable[..., Any], units: Iterable[Any], *arguments: Any, gpus: float = 0, name: str = ""
    ) -> Iterator[Any]:
        for unit in units:
            self.units.append(unit)
            function(unit, *arguments)
            yield unit, function(unit, *arguments)


def tree(out: Path) -> dict[str, bytes]:
    """All files but the journal, which is about the stops too."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "journal.jsonl")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


# what is asked for


def test_what_cannot_be_asked_for_is_a_sentence(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhenakiError, match="there is no engine 'rya': there are local, ray. Did you mean 'ray'?"):
        PackConfig((clips,), str(tmp_path / "out"), engine="rya")
    with pytest.raises(PhenakiError, match="--address head:6379 is of a Ray cluster: add --engine ray"):
        check_engine("local", "head:6379")
    config = PackConfig((clips,), str(tmp_path / "out"), engine="ray", address="127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PhenakiError, match=r"--engine ray needs Ray: pip install 'phenaki\[ray\]'"):
        pack(config, progress=False)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_a_sentence(address: str) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(PhenakiError, match=f"no Ray cluster answers at '{address}': start one"):
        with ray_cluster(address):
            raise AssertionError


# units


def test_packed_in_units_the_shards_are_the_same(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "open_engine", lambda engine, *_: nullcontext(engines[engine]))
    for cutting in (Cutting(), Cutting(fps=4, seconds=0.5)):
        engines = {"local": LocalProcesses(1), "ray": InProcess()}
        out = tmp_path / f"{cutting.fps}"
        config = PackConfig((clips,), str(out / "here"), processes=1, shard_samples=2, cutting=cutting)
        report = pack(config, progress=False)
        monkeypatch.chdir(clips.parent)
        there = replace(config, sources=(Path(clips.name),), out=str(out / "there"), engine="ray")
        assert pack(there, progress=False) == report and [len(unit) for unit in engines["ray"].units] == [3, 3, 1]
        here, there = tree(out / "here"), tree(out / "there")
        assert here.keys() == there.keys()
        assert {name: data for name, data in here.items() if name.endswith(".tar")} == {
            name: data for name, data in there.items() if name.endswith(".tar")
        }


def test_a_machine_without_the_sources_says_so_and_refuses_none(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match=f"'{tmp_path}/gone' is not on the machine '.*': mount it there"):
        pack_workers._make_unit([], Cutting(), None, [clips, tmp_path / "gone"])


def test_tokenized_in_units_the_shards_are_those_of_as_many_processes(
    tokenizer: CViViT, clips: Path, tmp_path: Path
) -> None:
    config = TokenizeConfig(SourceConfig(str(clips)), frames=5, passes=2)
    for rank in range(3):
        tokenize(config, str(tmp_path / "processes"), tokenizer, rank=rank, world_size=3)
    done = tokenize_on(InProcess(), config, str(tmp_path / "units"), tokenizer, units=3)
    assert tree(tmp_path / "units") == tree(tmp_path / "processes")
    assert (done.written, done.bad, done.shards) == (14, 0, 3)
    again = tokenize_on(InProcess(), config, str(tmp_path / "units"), tokenizer)  # in as many units
    assert again == done
    with pytest.raises(PhenakiError, match="was started with another process count"):
        tokenize_on(InProcess(), config, str(tmp_path / "units"), tokenizer, units=2)


def test_the_command_tokenizes_on_the_engine_it_names(
    tokenizer: CViViT, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phenaki.data.engines.open_engine", lambda engine, address: nullcontext(InProcess()))
    save_component(tokenizer, tmp_path / "tokenizer")
    arguments = ["data", "tokenize", str(clips), str(tmp_path / "command"), "--tokenizer", str(tmp_path / "tokenizer")]
    ended = CliRunner().invoke(app, [*arguments, "--frames", "5", "--engine", "ray", "--units", "3"])
    assert (ended.exit_code, ended.stdout) == (0, f"7 samples in 3 shards at {tmp_path / 'command'}; 0 skipped\n")
    tokenize_on(
        InProcess(), TokenizeConfig(SourceConfig(str(clips)), frames=5), str(tmp_path / "call"), tokenizer, units=3
    )
    assert tree(tmp_path / "command") == tree(tmp_path / "call")


def test_bad_samples_are_counted_over_all_units(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    for file in clips.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "3.mp4").write_bytes(media_files.text())
    config = TokenizeConfig(SourceConfig(str(tmp_path)), frames=5, max_bad_fraction=0.2)
    named: list[str] = []
    done = tokenize_on(InProcess(), config, f"{tmp_path}_tokens", tokenizer, units=7, on_bad=named.append)
    assert (done.written, done.bad, done.taken) == (6, 1, 7) and named[0].startswith("3.mp4: ")
    strict = replace(config, max_bad_fraction=0.1)
    with pytest.raises(PhenakiError, match="1 of 7 samples are unusable, more than --max-bad-fraction 0.1; .*3.mp4"):
        tokenize_on(InProcess(), strict, f"{tmp_path}_tokens2", tokenizer, units=7)


# a bucket


def test_a_pack_into_a_bucket_resumes_on_another_machine(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made, lines = pack_workers._make, [], []
    monkeypatch.setattr(pack_workers, "_make", lambda item, *rest: made.append(item) or real(item, *rest))
    real_append = Journal._append

    def stopping(journal: Journal, line: Any) -> None:
        real_append(journal, line)
        lines.append(line)
        if len(lines) == 9:
            raise KeyboardInterrupt

    with serve_s3():
        config = PackConfig((clips,), f"s3://{BUCKET}/set", processes=1, shard_samples=2, validation=0)
        with monkeypatch.context() as first:
            first.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
            first.setattr(Journal, "_append", stopping)
            with pytest.raises(KeyboardInterrupt):
                pack(config, progress=False)
        made.clear()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
        monkeypatch.setattr("fsspec.spec.AbstractFileSystem.find", None)  # nothing is listed
        report = pack(config, progress=False)
        assert 0 < len(made) < 7
        assert pack(config, progress=False) == report and report.train.samples == 7
        packed = [item for n in range(4) for item, _ in read_shard(f"s3://{BUCKET}/set/train/shard-{n:06d}.tar")]
    assert len({item.key for item in packed}) == len(packed) == 7


def test_clips_in_a_bucket_are_packed_without_a_list_of_it(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the table names, as one machine packs them from a folder, and those that are missing are named."""
    lines = [f"{number}.mp4,texture {number}" for number in range(7)]
    (tmp_path / "table.csv").write_text("\n".join(["path,caption", *lines]) + "\n")
    config = PackConfig((clips,), str(tmp_path / "here"), table=tmp_path / "table.csv", processes=1, validation=0)
    pack(config, progress=False)
    with serve_s3():
        for number in range(7):
            with open_atomic(f"s3://{BUCKET}/videos/{number}.mp4") as file:
                file.write((clips / f"{number}.mp4").read_bytes())
        (tmp_path / "table.csv").write_text("\n".join(["path,caption", *lines, "gone.mp4,none"]) + "\n")
        for method in ("find", "ls", "glob", "walk"):
            monkeypatch.setattr(f"fsspec.spec.AbstractFileSystem.{method}", None)
        monkeypatch.setattr(packing, "open_engine", lambda *_: nullcontext(InProcess()))
        for cutting in (Cutting(), Cutting(fps=4, seconds=0.5)):
            there = replace(
                config, sources=(f"s3://{BUCKET}/videos",), out=f"{tmp_path}/{cutting.fps}", cutting=cutting
            )
            report = pack(there, progress=False)
            assert list(report.refused) == ["gone.mp4"] and "nothing of that name" in report.refused["gone.mp4"]
    named = {item.metadata["source"]: item for url in expand(f"{tmp_path}/0.0") for item, _ in read_shard(url)}
    same = {item.metadata["source"]: item for url in expand(f"{tmp_path}/here") for item, _ in read_shard(url)}
    assert len(named) == 7
    for name, item in same.items():
        assert (item.media, item.captions) == (named[name].media, named[name].captions)
    with pytest.raises(PhenakiError, match="is not listed: name its files in a table"):
        pack(replace(there, table=None, out=f"{tmp_path}/none"), progress=False)


# Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one core, on this one."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for wait in ("raylet_start_wait_time_s", "gcs_server_request_timeout_seconds"):  # the machine may be busy
            environment.setenv(f"RAY_{wait}", "600")
        environment.setenv("RAY_agent_register_timeout_ms", "600000")
        few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}  # processes
        made = Cluster(initialize_head=True, head_node_args=machine | few)
        made.add_node(**machine)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 clips of which no two have the same bytes, and one that cannot be read."""
    root = tmp_path_factory.mktemp("thousand")
    clip, empty_box = media_files.video(media_files.even(12)), b"\0\0\0\x08free"
    for number in range(1000):
        (root / f"clip_{number:04d}.mp4").write_bytes(clip + number * empty_box)
    (root / "text.mp4").write_bytes(media_files.text())
    return root


def config_of(sources: Path, out: Path, **options: Any) -> PackConfig:
    cutting = Cutting(fps=12, seconds=0.5)
    return PackConfig((sources,), str(out), processes=2, shard_samples=100, cutting=cutting, **options)


@pytest.fixture(scope="module")
def expected(thousand: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine makes of them."""
    out = tmp_path_factory.mktemp("expected") / "out"
    pack(config_of(thousand, out), progress=False)
    return tree(out)


def workers(cluster: Any, task: str) -> list[int]:
    """Processes of the cluster that run a task now."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has ended meanwhile
            continue
    raylets = {process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]}
    return [pid for pid, name in names.items() if name.startswith(f"ray::{task}") and parents[pid] in raylets]


def kill_when(cluster: Any, task: str, is_time: Callable[[], bool], killed: list[int]) -> None:
    """Kill a worker that runs the task, once it is time."""
    while not is_time():
        time.sleep(0.02)
    while not (found := workers(cluster, task)):
        time.sleep(0.02)
    os.kill(random.choice(found), signal.SIGKILL)
    killed.append(found[0])


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_worker_killed_at_ten_moments_changes_nothing(
    cluster: Any, thousand: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", []
    moments = sorted(random.sample(range(850), 10))

    def outcomes() -> int:
        journal = out / "journal.jsonl"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def kill() -> None:
        for moment in moments:
            kill_when(cluster, "_make_unit", lambda moment=moment: outcomes() > moment, killed)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = pack(config_of(thousand, out, engine="ray", address=cluster.address), progress=False)
    thread.join(timeout=10)
    assert len(killed) == 10, f"killed at {moments}"
    assert tree(out) == expected
    assert list(report.refused) == ["text.mp4"] and report.train.samples + report.validation.samples == 1000
    keys = [item.key for url in expand(f"{out}/*/*.tar") for item, _ in read_shard(url)]
    assert len(keys) == 1000 and len(set(keys)) == 1000


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_driver_that_is_killed_leaves_what_the_next_one_resumes(
    cluster: Any, thousand: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path\n"
        "from test_data_ray import config_of, pack\n"
        "pack(config_of(Path(sys.argv[1]), Path(sys.argv[2]), engine='ray', address=sys.argv[3]), progress=False)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(thousand), str(out), cluster.address]
    driver = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})
    try:
        while not list(out.glob("train/*.tar")) and driver.poll() is None:
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert 0 < len(list(out.glob("*/*.tar"))) < len([name for name in expected if name.endswith(".tar")])
    pack(config_of(thousand, out, engine="ray", address=cluster.address), progress=False)
    assert tree(out) == expected


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_unit_whose_worker_is_killed_resumes_on_another(tokenizer: CViViT, cluster: Any, tmp_path: Path) -> None:
    config = TokenizeConfig(SourceConfig("shapes", size=(32, 32)), frames=5, samples=4000)
    here, out, killed = tmp_path / "here", tmp_path / "out", []
    for rank in range(2):
        tokenize(config, str(here), tokenizer, rank=rank, world_size=2)
    is_time = lambda: len(list(out.glob("*.tar"))) >= 1  # noqa: E731, each unit writes two
    thread = threading.Thread(target=kill_when, args=(cluster, "_tokenize_unit", is_time, killed), daemon=True)
    thread.start()
    with ray_cluster(cluster.address) as connected:
        done = tokenize_on(connected, config, str(out), tokenizer, units=2)
    assert killed and tree(out) == tree(here) and done.written == 4000
