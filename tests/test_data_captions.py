"""Captions are found where people keep them, and what is wrong with them is said."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data import table_rows
from phenaki.data.captions import (
    MOST_BYTES,
    CaptionTable,
    Columns,
    Words,
    clean_captions,
    draw_caption,
    read_caption_file,
)

ROWS = [("a/1.mp4", "a dog runs"), ("a/1.mp4", "an animal"), ("b c/2.gif", "Käse, und\nBrot")]


def write_table(path: Path) -> Path:
    """ROWS in the form that the ending says."""
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        captions = {}
        for name, caption in ROWS:
            captions.setdefault(name, []).append(caption)
        parquet.write_table(pyarrow.table({"Video": list(captions), "text": list(captions.values())}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"file": name, "caption": text}) + "\n\n" for name, text in ROWS))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [f'"{name}"{mark}"{text}"' for name, text in ROWS]
        path.write_text("\ufeff" + "\r\n".join([f"Path{mark}Caption", *lines]), "utf-8")  # as Excel writes it
    return path


# drawing


def test_one_of_the_captions_is_drawn_each_time() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(draw_caption(["one", "two"], "dog", ["a {label}"], rng) for _ in range(400))
    assert set(drawn) == {"one", "two"} and min(drawn.values()) > 150


def test_a_label_goes_through_the_templates() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(draw_caption((), "dog", ["a {label}", "{label}, filmed"], rng) for _ in range(400))
    assert set(drawn) == {"a dog", "dog, filmed"} and min(drawn.values()) > 150
    assert draw_caption((), "dog", (), rng) == "dog"
    assert draw_caption((), "", ["a {label}"], rng) == ""
    assert draw_caption((), "{x}", ["a {label}"], rng) == "a {x}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a video", "has no {label}"),
        ("a {label} in {place}", "the field {place}"),
        ("a {label:>{width}}", "the field {label:>{width}}"),
        ("a {label!r}", "the field {label!r}"),
        ("a {label", "cannot be read"),
        ("{}", "the field {}"),
    ],
)
def test_templates_with_anything_else_are_refused(template: str, says: str) -> None:
    with pytest.raises(PhenakiError) as error:
        draw_caption((), "dog", [template], np.random.default_rng(0))
    assert says in str(error.value) and template in str(error.value)


# text files


def test_a_caption_file_is_one_line_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff a  dog\r\n runs\n".encode())
    (tmp_path / "empty.txt").write_text(" \n")
    assert read_caption_file(tmp_path / "a.txt") == ("a dog runs",)
    assert read_caption_file(tmp_path / "empty.txt") == read_caption_file(tmp_path / "none.txt") == ()


def test_a_caption_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (tmp_path / "long.txt").write_text("x" * 100_000)
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    for name, says in (("latin", "not UTF-8"), ("long", f"more than {MOST_BYTES:,} bytes"), ("loop", "cannot be read")):
        with pytest.raises(BadSample, match=f"'{name}.txt' .*{says}"):
            read_caption_file(tmp_path / f"{name}.txt")


def test_captions_are_measured_in_bytes() -> None:
    assert clean_captions([" a\n b ", "", " "]) == ("a b",)
    assert clean_captions(["x" * MOST_BYTES])
    with pytest.raises(BadSample, match="10,002 bytes"):
        clean_captions(["ä" * 5001])
    with pytest.raises(BadSample, match="no Unicode"):
        clean_captions(["\ud800"])


# tables


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_all_tables_say_the_same(tmp_path: Path, ending: str) -> None:
    table = CaptionTable(write_table(tmp_path / f"t{ending}"))
    assert table.claim(tmp_path, "a/1.mp4") == Words(("a dog runs", "an animal"), "")
    assert table.unclaimed() == ["b c/2.gif"]
    assert clean_captions(table.claim(tmp_path, "b c/2.gif").captions) == ("Käse, und Brot",)
    assert table.claim(tmp_path, "other.mp4") is None
    assert table.unclaimed() == []


def test_semicolons_of_spreadsheets_part_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\ufeffpath;caption\n1.mp4;a dog, running\n2.mp4;"a; b"\n', "utf-8")
    table = CaptionTable(tmp_path / "t.csv")
    assert table.claim(tmp_path, "1.mp4").captions == ("a dog, running",)
    assert table.claim(tmp_path, "2.mp4").captions == ("a; b",)


def test_files_are_named_with_or_without_folder_and_ending(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        f"file,label\n./a/1.mp4,whole\nb/2,no ending\n3.mp4,name\n4,bare\n{tmp_path}/d/5.mp4,absolute\n"
    )
    table = CaptionTable(tmp_path / "t.csv")
    labels = [table.claim(tmp_path, name).label for name in ("a/1.mp4", "b/2.mp4", "c/3.mp4", "c/4.mp4", "d/5.mp4")]
    assert labels == ["whole", "no ending", "name", "bare", "absolute"]
    assert table.claim(tmp_path, "c/4.mp4").label == "bare"  # the same file again
    with pytest.raises(PhenakiError, match=r"'3.mp4' in .* matches two files, .*c/3.mp4' and .*e/3.mp4'"):
        table.claim(tmp_path, "e/3.mp4")


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("clip,words,class\n1.mp4,a dog,animals\n2.mp4\n,nothing,\n")
    table = CaptionTable(tmp_path / "t.csv", Columns(path="clip", caption="words"))
    assert table.claim(tmp_path, "1.mp4") == Words(("a dog",), "animals")
    assert table.claim(tmp_path, "2.mp4") == Words((), "")
    assert table.unclaimed() == [""]
    with pytest.raises(PhenakiError, match=r"no column of file names \(path, file.* It has: clip, words, class"):
        CaptionTable(tmp_path / "t.csv")
    with pytest.raises(PhenakiError, match=r"no column 'word'. Did you mean 'words'\? It has: clip, words, class"):
        CaptionTable(tmp_path / "t.csv", Columns(path="clip", caption="word"))
    (tmp_path / "u.csv").write_text("file,length\n1.mp4,3\n")
    with pytest.raises(PhenakiError, match="no column of captions or labels"):
        CaptionTable(tmp_path / "u.csv")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", "file,text\n1,Käse\n".encode("latin-1"), "not UTF-8"),
        ("t.csv", b"", "It has: none"),
        ("t.csv", b'file,text\n1,"' + b"x" * 200_000, "after line 1: field larger"),
        ("t.jsonl", b'{"file": "1", "text": "a"}\n{"file"\n', "no JSON in line 2"),
        ("t.jsonl", b"[1, 2]\n", "no JSON object in line 1"),
        ("t.parquet", b"no parquet", "cannot be read as Parquet"),
        ("t.xlsx", b"", ".csv, .tsv, .jsonl, .parquet"),
        ("missing.csv", None, "There is no table"),
    ],
)
def test_broken_tables_are_refused_in_a_sentence(tmp_path: Path, name: str, data: bytes | None, says: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(PhenakiError) as error:
        CaptionTable(tmp_path / name)
    assert says in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_table_that_names_nothing_of_ours_is_an_error(tmp_path: Path) -> None:
    table = CaptionTable(write_table(tmp_path / "t.csv"))
    with pytest.raises(PhenakiError, match="names none of the files there are; it names 'a/1.mp4', 'b c/2.gif'"):
        table.check_claimed()
    table.claim(tmp_path, "a/1.mp4")
    table.check_claimed()


def test_parquet_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"")
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PhenakiError, match=r'pip install "phenaki\[data\]"'):
        CaptionTable(tmp_path / "t.parquet")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_line_without_end_takes_no_memory(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "_LONGEST_LINE", 50)
    (tmp_path / f"t{ending}").write_text("path,caption\n" + "x" * 100)
    with pytest.raises(PhenakiError, match="has a line of 50 characters or more|has no JSON in line 1"):
        CaptionTable(tmp_path / f"t{ending}")
    (tmp_path / f"t{ending}").write_text("x" * 100)
    with pytest.raises(PhenakiError, match="has a line of 50 characters or more"):
        CaptionTable(tmp_path / f"t{ending}")
