"""Rows of tables that caption files: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.files import parse_json
from phenaki.core.reading import open_regular
from phenaki.media.reader import PICTURES, VIDEOS

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")

_LONGEST_LINE = 2**24  # characters

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "video", "image", "key")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
LABEL_COLUMNS = ("label", "class", "category")

Row = tuple[str, tuple[Any, ...], str]
"""Name of a file, its captions and label."""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; "" takes the first of the usual names that it has, whatever their case."""

    path: str = ""
    caption: str = ""
    label: str = ""


USUAL_COLUMNS = Columns()


def read_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Name, captions and label of each row."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PhenakiError(f"A table of captions ends in {', '.join(TABLE_ENDINGS)}; '{path}' does not.")
    with _reading(path), open_regular(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        yield from reader(path, text, columns)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PhenakiError(f"There is no table '{path}'.") from error
    except OSError as error:
        raise PhenakiError(f"The table '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise PhenakiError(f"The table '{path}' is not UTF-8: save it as UTF-8, or convert it with iconv.") from error
    except PhenakiError:
        raise
    except Exception as error:  # whatever a parser raises
        raise PhenakiError(f"The table '{path}' cannot be read: {error}.") from error


def read_names(path: Path) -> Sequence[str]:
    """The names of a table's columns; of JSON lines, those of the first."""
    ending = path.suffix.lower()
    with _reading(path), open_regular(path) as raw:
        if ending == ".parquet":
            return _parquet(path).read_schema(raw).names
        with TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as file:
            header = file.readline(_LONGEST_LINE)
        if ending == ".jsonl":
            row = parse_json(header, f"The table '{path}', line 1,") if header.strip() else {}
            return list(row) if isinstance(row, dict) else []
        return next(csv.reader([header], delimiter="\t" if ending == ".tsv" else _delimiter(header)), [])


def _read_csv(path: Path, file: TextIOWrapper, columns: Columns) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(file.readline(_LONGEST_LINE))
    file.seek(0)
    lines = csv.reader(_lines(path, file), delimiter=delimiter, strict=True)
    before = 0
    try:
        names = next(lines, [])
        found = _find_columns(path, names, columns)
        before = lines.line_num
        for cells in lines:
            if any(cells[len(names) :]):
                raise PhenakiError(
                    f"The table '{path}' has {len(cells)} cells in line {lines.line_num}, but {len(names)} columns: "
                    f"put double quotes around a text with '{delimiter}' in it."
                )
            if any(_holds_rows(cell, delimiter) for cell in cells):
                raise PhenakiError(
                    f"The table '{path}' has a quote in line {before + 1} that closes only in line {lines.line_num}, "
                    "after other rows: close it, or double it to stand for itself."
                )
            before = lines.line_num
            if cells:
                yield _read_row(dict(zip(names, cells, strict=False)), found)
    except csv.Error as error:
        raise PhenakiError(
            f"The table '{path}' cannot be read after line {before}: {error}. Is a quote open, or behind other text?"
        ) from error


def _lines(path: Path, file: TextIOWrapper) -> Iterator[str]:
    """Lines that fit into memory, whatever lies there."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise PhenakiError(f"The table '{path}' has a line of {_LONGEST_LINE:,} characters or more: is it text?")
        yield line


def _holds_rows(cell: str, delimiter: str) -> bool:
    """Whether a cell has swallowed rows of the table: lines in which a file is named beside something else."""
    lines = [line.split(delimiter) for line in cell.splitlines()[1:]]
    return any(
        len(parts) > 1 and any(posixpath.splitext(part.strip(' "'))[1].lower() in VIDEOS | PICTURES for part in parts)
        for parts in lines
    )


def _delimiter(header: str) -> str:
    """Spreadsheets write semicolons in locales with decimal commas."""
    return ";" if header.count(";") > header.count(",") else ","


def _read_json_lines(path: Path, file: TextIOWrapper, columns: Columns) -> Iterator[Row]:
    """The first line determines the columns."""
    found = None
    for number, line in enumerate(_lines(path, file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PhenakiError(f"The table '{path}' has no JSON in line {number}: {error}.") from error
        if not isinstance(row, dict):
            raise PhenakiError(f"The table '{path}' has no JSON object in line {number}, but {line.strip()[:40]}.")
        found = found or _find_columns(path, tuple(row), columns)
        yield _read_row(row, found)


def _read_parquet(path: Path, text: TextIOWrapper, columns: Columns) -> Iterator[Row]:
    parquet = _parquet(path)
    import pyarrow

    try:
        with parquet.ParquetFile(text.buffer) as file:
            found = _find_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(columns=[name for name in astuple(found) if name]):
                for row in batch.to_pylist():
                    yield _read_row(row, found)
    except pyarrow.ArrowException as error:
        raise PhenakiError(f"'{path}' cannot be read as Parquet: {error}.") from error


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise PhenakiError(f"'{path}' is Parquet, for which pip install \"phenaki[data]\" is needed.") from error
    return parquet


def _find_columns(path: Path, there: Sequence[str], wanted: Columns) -> Columns:
    """The names of the columns in the table; "" for caption or label if it has only the other."""

    def find(named: str, usual: tuple[str, ...]) -> str:
        if named and named not in there:
            near = did_you_mean(named, there)
            raise PhenakiError(f"The table '{path}' has no column '{named}'.{near} It has: {', '.join(there)}.")
        by_lower = {name.lower(): name for name in reversed(there)}
        return named or next((by_lower[name] for name in usual if name in by_lower), "")

    if repeated := [name for name in there if name and there.count(name) > 1]:
        raise PhenakiError(f"The table '{path}' has two columns '{repeated[0]}': rename or remove one.")
    found = Columns(
        path=find(wanted.path, _PATH_COLUMNS),
        caption=find(wanted.caption, CAPTION_COLUMNS),
        label=find(wanted.label, LABEL_COLUMNS),
    )
    if not found.path:
        raise _missing(path, "file names", _PATH_COLUMNS, there)
    if not found.caption and not found.label:
        raise _missing(path, "captions or labels", CAPTION_COLUMNS + LABEL_COLUMNS, there)
    return found


def _missing(path: Path, what: str, usual: tuple[str, ...], there: Sequence[str]) -> PhenakiError:
    return PhenakiError(
        f"The table '{path}' has no column of {what} ({', '.join(usual)}). It has: "
        f"{', '.join(there) or 'none'}. Say which one it is."
    )


def _read_row(row: dict[str, Any], columns: Columns) -> Row:
    captions = row.get(columns.caption)
    if not isinstance(captions, list):
        captions = [captions]
    texts = tuple(caption if isinstance(caption, dict) else str(caption) for caption in captions if caption is not None)
    return _text(row.get(columns.path)), texts, _text(row.get(columns.label))


def _text(value: Any) -> str:
    """Lone surrogates, which JSON can hold and no file name can, become question marks."""
    return "" if value is None else str(value).strip().encode(errors="replace").decode()
