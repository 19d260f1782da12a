"""Tables that data sets bring along: VideoFolder's of the Hugging Face hub, Kinetics', Something-Something's."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

from phenaki.core.errors import PhenakiError
from phenaki.core.reading import open_regular, read_regular
from phenaki.data.captions import CaptionTable
from phenaki.data.table_rows import (
    CAPTION_COLUMNS,
    LABEL_COLUMNS,
    TABLE_ENDINGS,
    USUAL_COLUMNS,
    Columns,
    Row,
    read_names,
    read_rows,
)

Layout = Literal["folder", "lerobot", "ucf101", "kinetics", "something"]
FILE_NAME = "file_name"  # the column that makes a metadata table one of VideoFolder


def own_table(root: Path, columns: Columns = USUAL_COLUMNS) -> CaptionTable | None:
    """The table of captions in a folder: captions.csv (.tsv, .jsonl, .parquet), or VideoFolder's metadata.csv.

    VideoFolder may have one in each folder of `root`, such as train/metadata.csv, with names relative to it. Raises
    PhenakiError for two tables in one place, and as `CaptionTable` does.
    """
    if table := _only(root, "captions"):
        return CaptionTable(table, columns)
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")]
    found = [(folder, table) for folder in folders if (table := _only(folder, "metadata"))]
    found = [(folder, table) for folder, table in found if _is_video_folder(table, columns)]
    if not found:
        return None
    rows = (
        ((folder.relative_to(root) / name).as_posix(), captions, label)
        for folder, table in found
        for name, captions, label in read_rows(table, columns)
    )
    return CaptionTable(found[0][1], columns, rows)


def _is_video_folder(table: Path, columns: Columns) -> bool:
    """Whether it names files, and has words for them."""
    names = read_names(table)
    words = {columns.caption, columns.label, *CAPTION_COLUMNS, *LABEL_COLUMNS}
    return FILE_NAME in names and any(name in words or name.lower() in words for name in names)


def _only(folder: Path, name: str) -> Path | None:
    try:
        there = [table for ending in TABLE_ENDINGS if (table := folder / f"{name}{ending}").is_file()]
    except OSError:  # a folder that cannot be opened, which is reported where its media are looked for
        return None
    if len(there) > 1:
        raise PhenakiError(f"'{folder}' has two tables of captions, '{there[0].name}' and '{there[1].name}'.")
    return there[0] if there else None


def layout_table(layout: Layout, root: Path) -> CaptionTable | None:
    """The table of a data set in the layout in which it is published. Raises PhenakiError if there is none."""
    if layout not in _READERS:
        return None
    pattern, reader, example = _READERS[layout]
    files = sorted(file for folder in (root, root / "annotations", root / "labels") for file in folder.glob(pattern))
    rows = [row for file in files for row in reader(file)]
    if not rows:
        raise PhenakiError(f"'{root}' has no annotations of {layout}, such as {example}, at its top")
    return CaptionTable(files[0], rows=rows)


def words_of_label(label: str) -> str:
    """ "ApplyEyeMakeup" as "apply eye makeup"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", label).lower()


def _kinetics(file: Path) -> Iterator[Row]:
    with open_regular(file) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            for row in rows:
                if {"youtube_id", "time_start", "time_end", "label"} <= row.keys() and row["label"]:
                    start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
                    yield f"{row['youtube_id']}_{start:06d}_{end:06d}", (), row["label"].strip('"')
        except (csv.Error, ValueError, TypeError, OverflowError) as error:
            raise PhenakiError(f"'{file}' cannot be read in line {rows.line_num}: {error}.") from error


def _something(file: Path) -> Iterator[Row]:
    try:
        entries = json.loads(read_regular(file, 2**30))
    except (OSError, ValueError, RecursionError) as error:
        raise PhenakiError(f"'{file}' is not valid JSON: {error}.") from error
    for entry in entries if isinstance(entries, list) else []:  # other files list templates, or ids without captions
        if isinstance(entry, dict) and entry.get("id") and entry.get("label"):
            yield str(entry["id"]), (str(entry["label"]),), str(entry.get("template", "")).translate(_BRACKETS)


_BRACKETS = str.maketrans("", "", "[]")
_READERS: dict[str, tuple[str, Callable[[Path], Iterator[Row]], str]] = {
    "kinetics": ("*.csv", _kinetics, "train.csv with youtube_id, time_start, time_end and label"),
    "something": ("*.json", _something, "something-something-v2-train.json"),
}
