"""Every clip of a folder is listed once, in one order, with its words, whatever else lies there."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import CaptionTable
from phenaki.data.folder import Folder
from phenaki.data.sample import EncodedSample


def fill(root: Path, *names: str) -> Path:
    """Empty files: a folder does not look into its media."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def keys(folder: Folder) -> list[str]:
    return [folder[i].key for i in range(len(folder))]


def test_media_are_listed_by_path_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.MP4", "b/1.gif", "a.png", "ü ö/x y.webm", ".hidden.mp4", ".git/a.mp4", "notes.txt", "b/mp4")
    folder = Folder(tmp_path)
    assert keys(folder) == ["a.png", "b/1.gif", "b/2.MP4", "ü ö/x y.webm"]
    assert folder[2] == EncodedSample("b/2.MP4", tmp_path / "b/2.MP4", ".mp4")
    assert folder[-1].key == "ü ö/x y.webm"
    with pytest.raises(IndexError):
        folder[4]
    assert keys(pickle.loads(pickle.dumps(folder))) == keys(folder)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "elsewhere", "2.mp4")
    root = fill(tmp_path / "root", "a/1.mp4")
    (root / "a/up").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "link").symlink_to(elsewhere)
    (root / "nowhere.mp4").symlink_to("gone")
    assert keys(Folder(root)) == ["a/1.mp4", "link/2.mp4", "nowhere.mp4", "self.mp4"]


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.mp4", "b/2.mp4")
    real = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "b":  # as root, tests may read what nobody may
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    folder = Folder(tmp_path)
    opened, refused = folder[0], folder[1]
    assert len(folder) == 2 and opened.key == "a/1.mp4"
    assert isinstance(refused, BadSample) and str(refused) == "b/: the folder cannot be opened: Permission denied"


def test_names_that_are_no_unicode_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system has Unicode names only")
    sample = Folder(tmp_path)[0]
    assert sample.key == r"caf\xe9.mp4" and sample.media.exists()


def test_captions_lie_beside_the_media(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.mp4", "dog/2.mp4", "dog/3.mp4", "dog/4.mp4", "5.mp4")
    (tmp_path / "dog/1.txt").write_text("a dog\nruns\n")
    (tmp_path / "dog/3.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "dog/4.txt").write_text("x" * 100_000)
    plain, labelled = Folder(tmp_path), Folder(tmp_path, label_from_folder=True)
    assert plain[1].captions == ("a dog runs",) and plain[2].captions == ()
    for index, says in ((3, "dog/3.mp4: .* not UTF-8"), (4, "dog/4.mp4: .* more than 10,000 bytes")):
        bad = plain[index]
        assert isinstance(bad, BadSample) and re.search(says, str(bad))
    assert plain[1].label == "" and [labelled[i].label for i in (0, 1, 2)] == ["", "dog", "dog"]


def test_where_nobody_asks_for_words_none_can_be_wrong(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_bytes("Käfer".encode("latin-1"))
    (tmp_path / "captions.csv").write_text("no,such,columns\n")
    folder = Folder(tmp_path, captions=False)
    assert [folder[index] for index in (0, 1)] == [EncodedSample(n, tmp_path / n, ".mp4") for n in ("a.mp4", "b.mp4")]


def test_a_table_comes_before_text_files_and_folders(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.mp4", "dog/2.mp4")
    for name in ("1", "2"):
        (tmp_path / f"dog/{name}.txt").write_text("beside")
    (tmp_path / "captions.csv").write_text("file,caption,label\ndog/1.mp4,from the table,hound\n")
    folder = Folder(tmp_path, label_from_folder=True)
    assert (folder[0].captions, folder[0].label) == (("from the table",), "hound")
    assert (folder[1].captions, folder[1].label) == (("beside",), "dog")
    (tmp_path / "other.csv").write_text("file,caption\n2,given\n")
    assert [s.captions for s in map(Folder(tmp_path, CaptionTable(tmp_path / "other.csv")).__getitem__, range(2))] == [
        ("beside",),
        ("given",),
    ]


def test_tables_of_the_folder_itself_must_fit_it(tmp_path: Path) -> None:
    fill(tmp_path, "1.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\nelsewhere.mp4,a dog\n")
    with pytest.raises(PhenakiError, match="names none of the files there are; it names 'elsewhere.mp4'"):
        Folder(tmp_path)
    (tmp_path / "captions.jsonl").touch()
    with pytest.raises(PhenakiError, match="two tables of captions, 'captions.csv' and 'captions.jsonl'"):
        Folder(tmp_path)


def test_folders_without_media_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "empty/notes.txt", "file.mp4")
    with pytest.raises(PhenakiError, match="gone' is not there"):
        Folder(tmp_path / "gone")
    with pytest.raises(PhenakiError, match="file.mp4' is a file, no folder"):
        Folder(tmp_path / "file.mp4")
    with pytest.raises(PhenakiError, match="empty' holds no videos or pictures"):
        Folder(tmp_path / "empty")


def test_many_files_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"clips/part-{i:05d}/clip number {i}.mp4" for i in range(20_000)]
    monkeypatch.setattr(Folder, "_media_under", lambda *_: iter(names))
    assert len(pickle.dumps(Folder(tmp_path))) < 60 * len(names)  # what each worker holds
