"""Two processes exclude each other from an output, a dead one excludes nobody, and leaves nothing for good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phenaki.core import files
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic, write_folder_atomic
from phenaki.core.locks import LOCK, lock, lock_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such locks")


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen]:
    """A process that runs the code, which prints a line when it is ready, and then waits."""
    program = f"import time\n{code}\n    print('ready', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_another_process_is_named_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = (
        f"from pathlib import Path\nfrom phenaki.core.locks import *\nwith lock_folder(Path({str(out)!r}), 'training'):"
    )
    with process(code) as other:
        with pytest.raises(PhenakiError, match=rf"run' is in use: training in process {other.pid} on .*, since \d"):
            with lock_folder(out, "training"):
                pass
        assert (out / LOCK).exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
        with lock_folder(out, "training"):
            (out / "model").touch()
    assert [path.name for path in out.iterdir()] == ["model"]


def test_a_process_excludes_itself_too(tmp_path: Path) -> None:
    with lock(tmp_path / LOCK, tmp_path, "packing"):
        with pytest.raises(PhenakiError, match=f"packing in process {os.getpid()}"):
            with lock(tmp_path / LOCK, tmp_path, "packing"):
                pass
    with lock(tmp_path / LOCK, tmp_path, "packing"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_child_of_a_killed_process_does_not_keep_its_lock(tmp_path: Path) -> None:
    code = (
        f"import os\nfrom phenaki.core.locks import *\n"
        f"with lock_folder(Path({str(tmp_path)!r}), 'training'):\n"
        "    if not os.fork(): time.sleep(5); os._exit(0)"
    )
    with process(code) as other:
        other.kill()
        other.wait()
        with lock_folder(tmp_path, "training"):
            pass


def test_a_new_folder_without_content_is_removed_again(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "new", "training"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with lock_folder(tmp_path / "old", "training"):
        pass
    assert (tmp_path / "old").exists()


@pytest.mark.parametrize("kind", ["write_atomic", "write_folder_atomic"])
def test_what_a_killed_process_wrote_goes_and_what_a_living_one_writes_stays(tmp_path: Path, kind: str) -> None:
    code = f"from phenaki.core.files import *\nwith {kind}({str(tmp_path / 'out')!r}):"
    with process(code) as living:
        with process(code):
            pass  # and is killed
        assert len(list(tmp_path.iterdir())) == 2
        files._swept.clear()
        with write_atomic(tmp_path / "mine") as file:
            file.write(b"mine")
        with write_folder_atomic(tmp_path / "folder") as folder:
            (folder / "file").touch()
        (unfinished,) = tmp_path.glob(files.UNFINISHED)
        assert living.poll() is None and unfinished.exists()
    files._swept.clear()
    with write_atomic(tmp_path / "mine"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "mine"]
