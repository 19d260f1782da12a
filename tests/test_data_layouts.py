"""Data sets are read as they are published: VideoFolder, UCF-101, Kinetics, Something-Something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phenaki.core.errors import PhenakiError
from phenaki.data.folder import Folder
from phenaki.data.layouts import words_of_label
from phenaki.data.pack_config import PackConfig
from phenaki.data.pack_inputs import PackInputs
from phenaki.data.sample import EncodedSample


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def words(folder: Folder) -> dict[str, tuple[tuple[str, ...], str]]:
    items = [folder[index] for index in range(len(folder))]
    return {item.key: (item.captions, item.label) for item in items if isinstance(item, EncodedSample)}


ROWS = [{"file_name": "1.mp4", "text": "a cat", "n": 1}, {"file_name": "sub/2.mp4", "text": "a dog", "n": 2}]


def write_table(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("\n".join(["file_name,text,n", *(",".join(map(str, row.values())) for row in ROWS)]))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_video_folder(tmp_path: Path, ending: str) -> None:
    fill(tmp_path, "1.mp4", "sub/2.mp4")
    write_table(tmp_path / f"metadata.{ending}")
    assert words(Folder(tmp_path)) == {"1.mp4": (("a cat",), ""), "sub/2.mp4": (("a dog",), "")}


def test_video_folder_with_a_table_in_each_split(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{split}/{name}" for split in ("train", "validation") for name in ("1.mp4", "sub/2.mp4")))
    for split in ("train", "validation"):
        write_table(tmp_path / split / "metadata.csv")
    found = words(Folder(tmp_path))
    assert found["train/1.mp4"] == found["validation/1.mp4"] == (("a cat",), "") and len(found) == 4


def test_other_tables_of_that_name_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, "1.mp4")
    (tmp_path / "1.txt").write_text("beside it")
    for header in ("name,text", "file_name,frames", ""):
        (tmp_path / "metadata.csv").write_text(f"{header}\n1.mp4,of the table\n")
        assert words(Folder(tmp_path)) == {"1.mp4": (("beside it",), "")}
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.mp4,of the table\n")
    assert words(Folder(tmp_path)) == {"1.mp4": (("of the table",), "")}
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.mp4", "text": "a"}')
    with pytest.raises(PhenakiError, match="has two tables of captions, 'metadata.csv' and 'metadata.jsonl'"):
        Folder(tmp_path)


def packed_words(root: Path, layout: str) -> dict[str, tuple[tuple[str, ...], str]]:
    inputs = PackInputs(PackConfig((root,), "out", layout=layout))  # type: ignore[arg-type]
    (folder,) = inputs.folders
    return words(folder)  # type: ignore[arg-type]


def test_ucf101(tmp_path: Path) -> None:
    fill(tmp_path, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi", "TaiChi/a.avi")
    assert sorted(label for _, label in packed_words(tmp_path, "ucf101").values()) == [
        "apply eye makeup",
        "tai chi",
        "yo yo",
    ]
    assert words_of_label("JumpingJack") == "jumping jack"


def test_kinetics(tmp_path: Path) -> None:
    fill(tmp_path, "train/abc_000010_000020.mp4", "train/-_d_000003_000013.mp4", "train/gone.mp4")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        '"riding a bike",abc,10,20,train,0\n"tai chi",-_d,3,13,train,0\n'
    )
    (tmp_path / "annotations" / "test.csv").write_text("youtube_id,time_start,time_end,split\nx,1,2,test\n")
    found = packed_words(tmp_path, "kinetics")
    assert found["train/abc_000010_000020.mp4"] == ((), "riding a bike")
    assert found["train/-_d_000003_000013.mp4"] == ((), "tai chi") and found["train/gone.mp4"] == ((), "")


def test_something_something(tmp_path: Path) -> None:
    fill(tmp_path, "20bn-something-something-v2/78687.webm")
    entry = {"id": "78687", "label": "holding potato next to jar", "template": "Holding [something] next to [it]"}
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.json").write_text(json.dumps([entry]))
    (tmp_path / "labels" / "labels.json").write_text(json.dumps({"Holding something": "0"}))
    (tmp_path / "labels" / "test.json").write_text(json.dumps([{"id": "1"}]))
    found = packed_words(tmp_path, "something")
    assert found == {
        "20bn-something-something-v2/78687.webm": (("holding potato next to jar",), "Holding something next to it")
    }


@pytest.mark.parametrize("layout", ["kinetics", "something"])
def test_missing_annotations_are_said(tmp_path: Path, layout: str) -> None:
    fill(tmp_path, "1.mp4")
    with pytest.raises(PhenakiError, match=f"has no annotations of {layout}, such as"):
        packed_words(tmp_path, layout)
