"""Files and folders are complete under their names, or absent."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.files import write_atomic, write_folder_atomic


def test_file_appears_at_the_end_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a b.txt"
    for text in ("first é", "second"):
        with write_atomic(path, "w") as file:
            file.write(text)
            assert not path.exists() or path.read_text(encoding="utf-8") == "first é"
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["a b.txt"]


@pytest.mark.parametrize("raised", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOENT, "of another file")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, raised: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(raised)), write_atomic(path) as file:
        file.write(b"new")
        raise raised
    with pytest.raises(type(raised)), write_folder_atomic(tmp_path / "folder") as folder:
        (folder / "a").write_bytes(b"new")
        raise raised
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "is read-only")],
)
def test_system_errors_become_messages(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(PhenakiError, match=rf"a\.bin': .*{message}"), write_atomic(tmp_path / "a.bin"):
        raise OSError(number, "the system's wording")
    with pytest.raises(PhenakiError, match=rf"folder': .*{message}"), write_folder_atomic(tmp_path / "folder"):
        raise OSError(number, "the system's wording")
    assert os.listdir(tmp_path) == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for write in (write_atomic, write_folder_atomic):
        with pytest.raises(PhenakiError, match="missing' does not exist"), write(tmp_path / "missing" / "a"):
            pass
        with pytest.raises(PhenakiError, match="name is too long|does not exist"), write(tmp_path / ("n" * 300)):
            pass
    with pytest.raises(PhenakiError, match="it is a folder"), write_atomic(tmp_path):
        pass
    with pytest.raises(PhenakiError, match="it is a file"), write_folder_atomic(tmp_path / "file"):
        pass
    with pytest.raises(PhenakiError, match="not a regular file"), write_atomic("/dev/null"):
        pass


def test_a_folder_is_complete_and_keeps_other_files(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for text in ("first", "second"):
        with write_folder_atomic(path) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "a").write_text(text)
            assert not path.exists() or (path / "deep" / "a").read_text() == "first"
        assert (path / "deep" / "a").read_text() == text
        (path / "other").write_text("stays")
    assert sorted(os.listdir(path)) == ["deep", "other"] and os.listdir(tmp_path) == ["folder"]


def watch_moves(monkeypatch: pytest.MonkeyPatch, seen: Callable[[int], None]) -> None:
    """Call `seen` with the number of each file move, before it happens."""
    replace, count = os.replace, itertools.count()

    def watched(source: Path, target: Path) -> None:
        seen(next(count))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)


def fill(folder: Path, text: str, names: str) -> None:
    with write_folder_atomic(folder) as new:
        for name in names:
            (new / name).mkdir()
            (new / name / "text").write_text(text)


def texts(folder: Path) -> set[str]:
    return {file.read_text() for file in folder.rglob("text")}


def test_old_and_new_files_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, snapshots = tmp_path / "folder", []
    fill(folder, "old", "abc")
    watch_moves(monkeypatch, lambda _: snapshots.append(texts(folder)))
    fill(folder, "new", "abc")
    assert {"old"} in snapshots and {"new"} in snapshots and {"old", "new"} not in snapshots
    assert texts(folder) == {"new"}


@pytest.mark.parametrize("failing", range(5))
def test_a_folder_that_cannot_be_replaced_is_unchanged(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    fill(folder, "old", "bc")

    def fail(move: int) -> None:
        if move == failing:
            raise OSError(errno.EIO, "input/output error")

    watch_moves(monkeypatch, fail)
    with pytest.raises(PhenakiError, match="input/output error"):
        fill(folder, "new", "abc")
    assert [(folder / name / "text").read_text() for name in "bc"] == ["old", "old"]
    assert texts(folder) == {"old"} and os.listdir(tmp_path) == ["folder"]


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "plain folder").mkdir()
    with write_atomic(tmp_path / "atomic"), write_folder_atomic(tmp_path / "atomic folder"):
        pass
    for name in ("", " folder"):
        assert (tmp_path / f"atomic{name}").stat().st_mode == (tmp_path / f"plain{name}").stat().st_mode


def test_a_sentence_can_be_written_whatever_it_names() -> None:
    error = PhenakiError("'\ud800' is no type")
    assert str(error) == "'\\ud800' is no type" and str(error).encode()


def test_the_nearest_name() -> None:
    assert did_you_mean("dims", ["depth", "dim"]) == " Did you mean 'dim'?"
    assert did_you_mean("CIRCLE", ["circle"]) == " Did you mean 'circle'?"
    assert did_you_mean("zzz", ["depth", "dim"]) == ""
