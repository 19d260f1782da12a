"""What people have on their disks: nothing is taken for something else, cut off or passed over without a word."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import media_files
from helpers.media_files import even, video
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import CaptionTable, Words
from phenaki.data.folder import Folder
from phenaki.data.inspecting import inspect_data
from phenaki.data.packing import PackConfig, pack
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import read_shard
from phenaki.data.storage import expand

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def shard(path: Path, *members: tuple[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def only(url: str, **choices: bool) -> EncodedSample | BadSample:
    ((sample, _),) = read_shard(url, **choices)
    return sample


# several in one sample


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (["2024.05.01.mp4", "2024.05.01.txt", "2024.05.02.mp4"], r"2024: it holds 2 videos \(05.01.mp4, 05.02.mp4\)"),
        (["a.base.mp4", "a.pose.mp4", "a.txt"], r"a: it holds 2 videos \(base.mp4, pose.mp4\)"),
        (["a.mp4", "a.webm"], r"a: it holds 2 videos \(mp4, webm\)"),
        (["a.jpg", "a.mask.png", "a.txt"], r"a: it holds 2 pictures \(jpg, mask.png\)"),
        (["a.mp4", "a.en.txt", "a.de.txt"], "a: its texts are 'de.txt, en.txt', and a caption is expected in 'txt'"),
        (["a.v2.mp4", "a.old.txt"], "a: its texts are 'old.txt', and a caption is expected in 'v2.txt'"),
    ],
)
def test_what_is_ambiguous_is_said(tmp_path: Path, members: list[str], said: str) -> None:
    bad = only(shard(tmp_path / "a.tar", *((name, b"words") for name in members)))
    assert isinstance(bad, BadSample)
    with pytest.raises(BadSample, match=said):
        raise bad


@pytest.mark.parametrize("names", [("a.jpg", "a.mp4"), ("a.mp4", "a.jpg"), ("a.mp4", "a.0.jpg", "a.1.jpg")])
def test_a_thumbnail_beside_a_video_is_passed_over(tmp_path: Path, names: tuple[str, ...]) -> None:
    sample = only(shard(tmp_path / "a.tar", *((name, name.encode()) for name in names), ("a.txt", b"hi")))
    assert (sample.media, sample.suffix, sample.captions) == (b"a.mp4", ".mp4", ("hi",))


def test_captions_metadata_and_actions_follow_the_dots_in_a_name(tmp_path: Path) -> None:
    fields = {"mp4": b"m", "txt": b"a day", "json": b'{"fps": 5}', "actions.npy": b"table"}
    url = shard(tmp_path / "a.tar", *((f"2024.05.01.{field}", data) for field, data in sorted(fields.items())))
    sample = only(url, actions=True)
    assert (sample.captions, sample.metadata, sample.actions) == (("a day",), {"fps": 5}, b"table")
    assert only(url, captions=False).captions == ()


def test_accents_are_the_same_letters_however_they_are_composed(tmp_path: Path) -> None:
    assert NFC != NFD
    sample = only(shard(tmp_path / "a.tar", (f"{NFC}.mp4", b"m"), (f"{NFD}.txt", b"one")))
    assert sample.captions == ("one",)
    for form, other in ((NFC, NFD), (NFD, NFC)):
        root = tmp_path / f"folder {len(form)}"
        root.mkdir()
        (root / f"{form}.mp4").write_bytes(b"m")
        (root / f"{other}.txt").write_text("beside")
        assert Folder(root)[0].captions == ("beside",)
        (root / "captions.csv").write_text(f"path,caption\n{other}.mp4,in a table\n", "utf-8")
        folder = Folder(root)
        assert folder[0].captions == ("in a table",) and not folder.unclaimed


# tables


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("x.mp4,A cat, sitting on a mat\ny.mp4,two\n", "3 cells in line 2, but 2 columns: put double quotes"),
        ('x.mp4,one\ny.mp4,"never closed\nz.mp4,three\n', "after line 2: unexpected end of data. Is a quote open"),
        ('x.mp4,"a cat\ny.mp4,"two"\n', "quote|after line 1"),
        ('x.mp4,"a cat\ny.mp4,two\nz.mp4,three"\nw.mp4,four\n', "a quote in line 2 that closes only in line 4"),
        ('x.mp4,"a" cat\n', "after line 1"),
    ],
)
def test_rows_are_never_cut_or_swallowed(tmp_path: Path, rows: str, said: str) -> None:
    for ending, delimiter in ((".csv", ","), (".tsv", "\t"), (".csv", ";")):
        table = tmp_path / f"t{ending}"
        table.write_text(f"path,caption\n{rows}".replace(",", delimiter))
        with pytest.raises(PhenakiError, match=said):
            CaptionTable(table)


def test_tables_as_spreadsheets_write_them_are_read(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('path,caption,,\nx.mp4,"A cat, sitting\non a ""mat""",,\n\ny.mp4,5\' 6" tall,,,\nz.mp4\n')
    table = CaptionTable(table)
    assert table.claim(tmp_path, "x.mp4") == Words(('A cat, sitting\non a "mat"',), "")
    assert table.claim(tmp_path, "y.mp4") == Words(("5' 6\" tall",), "")
    assert table.claim(tmp_path, "z.mp4") == Words((), "")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,caption,caption\nx.mp4,a,b\n")
    with pytest.raises(PhenakiError, match="two columns 'caption'"):
        CaptionTable(tmp_path / "t.csv")


# what is no text


def test_lone_surrogates_end_nothing(tmp_path: Path) -> None:
    r"""JSON can spell them, as in "\ud800"; they can be neither printed nor written."""
    lone = json.dumps("\ud800")
    clip = video(even(12))
    (tmp_path / "shards").mkdir()
    url = shard(
        tmp_path / "shards" / "a.tar",
        *(("a.mp4", clip), ("a.json", f'{{"label": {lone}}}'.encode())),
        *(("b.mp4", clip), ("b.json", f'{{"captions": [{lone}]}}'.encode())),
        *(("c.mp4", clip), ("c.txt", b"c"), ("c.json", f'{{"source": {lone}, "x": {{{lone}: [{lone}]}}}}'.encode())),
        *(("d.mp4", clip), ("d.txt", b"d"), ("d.json", b'{"source": "\\ud83d\\ude00"}')),
    )
    label, caption, good, smiling = [sample for sample, _ in read_shard(url)]
    assert "no Unicode text" in str(label) and "no Unicode text" in str(caption)
    assert good.metadata == {"source": "?", "x": {"?": ["?"]}} and good.name == "a.tar/c (?)"
    assert smiling.metadata == {"source": "😀"}
    summary = inspect_data(str(tmp_path / "shards"), tmp_path / "out", progress=False)
    assert len(summary.bad) == 2
    "\n".join(summary.lines()).encode()


# other files


def test_files_of_other_endings_are_mentioned(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.CR2", "b.cr2", "c.braw", "README", "a.txt", "notes.md", ".hidden.xyz"):
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in" / "a.mp4").write_bytes(video(even(12)))
    Image.fromarray(media_files.grey(9, (48, 64))).save(tmp_path / "in" / "scan.TIFF")
    report = pack(PackConfig((tmp_path / "in",), str(tmp_path / "out"), processes=1), progress=False)
    assert "4 files of other endings passed over: .cr2 2, .braw 1, no ending 1" in report.lines()
    assert report.sources == 2 and not report.refused
    summary = inspect_data(str(tmp_path / "in"), tmp_path / "summary", progress=False)
    assert "4 files of other endings passed over: .cr2 2, .braw 1, no ending 1" in summary.lines()


def test_interlaced_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    options = {"x264-params": "tff=1:cpu-independent=1"}
    (tmp_path / "in" / "tape.mp4").write_bytes(video(even(12), options=options))
    (tmp_path / "in" / "film.mp4").write_bytes(video(even(13)))
    report = pack(PackConfig((tmp_path / "in",), str(tmp_path / "out"), processes=1), progress=False)
    assert list(report.notes) == ["tape.mp4"] and "combs" in "\n".join(report.lines())
    again = pack(PackConfig((tmp_path / "in",), str(tmp_path / "out"), processes=1), progress=False)
    assert again.notes == report.notes  # from the journal
    summary = inspect_data(str(tmp_path / "in"), tmp_path / "summary", progress=False)
    assert summary.interlaced == 1 and any(line.startswith("interlaced    1 ") for line in summary.lines())


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices have names on POSIX systems alone")
def test_pipes_and_devices_are_bad_samples_and_never_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a", "words", "table"):
        (root / f"{name}.mp4").write_bytes(video(even(12 + len(name))))
    os.mkfifo(root / "pipe.mp4")
    (root / "empty.mp4").write_bytes(b"")  # of the same size as a pipe, so that both are compared
    (root / "device.png").symlink_to("/dev/zero")
    os.mkfifo(root / "words.txt")
    os.mkfifo(root / "table.captions.json")
    report = pack(PackConfig((root,), str(tmp_path / "out"), processes=1), progress=False)
    assert sorted(report.refused) == ["device.png", "empty.mp4", "pipe.mp4", "table.mp4", "words.mp4"]
    assert all("not a regular file" in why for name, why in report.refused.items() if name != "empty.mp4")
    os.mkfifo(root / "captions.csv")
    os.mkfifo(tmp_path / "a.tar")
    assert len(Folder(root)) == 6  # a pipe is no table
    with pytest.raises(PhenakiError, match="not a regular file"):
        CaptionTable(root / "captions.csv")
    with pytest.raises(PhenakiError, match="not a regular file"):
        expand(str(tmp_path / "a.tar"))
    os.mkfifo(root / "dataset.json")
    with pytest.raises(PhenakiError, match="not a regular file"):
        Folder(root, actions=True)


def test_braces_stand_for_a_bounded_number_of_names(tmp_path: Path) -> None:
    for pattern in ("a-{0..999999999}.tar", "{0..9999}-{0..9999}.tar", "a-{0..999999999999999999}.tar"):
        with pytest.raises(PhenakiError, match="stand for [0-9,]+ names; at most 1,000,000"):
            expand(str(tmp_path / pattern))


@pytest.mark.parametrize(
    "data", [b"\x93NUMPY\x01\x00v\x00{", b"\x93NUMPY" + bytes(20), b"(" * 5000, b"\x93NUMPY\x01\x00\xff\xff"]
)
def test_broken_action_tables_are_bad_samples(data: bytes) -> None:
    from phenaki.core.actions import ActionSpec
    from phenaki.data.actions import read_table

    spec = ActionSpec(("left",), ("button",))
    with pytest.raises(BadSample, match="its action table cannot be read"):
        read_table(EncodedSample("a", b"", ".mp4", actions=data), spec, 12)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1)})
    with pytest.raises(BadSample, match="its action table cannot be read"):
        read_table(EncodedSample("a", b"", ".mp4", actions=huge.getvalue()), spec, 12)
