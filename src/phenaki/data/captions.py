"""Captions: text files beside the media, tables, and labels in templates."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError, did_you_mean

MOST_BYTES = 10_000  # of a caption in UTF-8; anything longer is some other text
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")

_PATH_COLUMNS = ("path", "file", "filename", "video", "image", "key")
_CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
_LABEL_COLUMNS = ("label", "class", "category")


# drawing


def draw_caption(captions: Sequence[str], label: str, templates: Sequence[str], rng: np.random.Generator) -> str:
    """One of `captions`; without any, `label` in one of `templates`, or alone; else "".

    Raises PhenakiError for a template that `check_template` refuses.
    """
    if captions:
        return captions[rng.integers(len(captions))]
    if not label or not templates:
        return label
    template = templates[rng.integers(len(templates))]
    check_template(template)
    return template.format(label=label)


@cache
def check_template(template: str) -> None:
    """Raise PhenakiError unless `template` has the field {label} and no other, as "a video of {label}" does."""
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise PhenakiError(f"The caption template '{template}' cannot be read: {error}.") from error
    if not fields:
        raise PhenakiError(f"The caption template '{template}' has no {{label}}: write it as 'a video of {{label}}'.")
    for name, form, conversion in fields:
        if name != "label" or form or conversion:
            named = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise PhenakiError(f"The caption template '{template}' has the field {{{named}}}; there is only {{label}}.")


# text files


def read_caption_file(path: Path) -> tuple[str, ...]:
    """The caption in a text file, its whitespace normalized; () if there is no file or no text in it.

    Raises BadSample if it is not UTF-8, too long, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        return ()
    except OSError as error:
        raise BadSample(f"its caption file '{path.name}' cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise BadSample(f"its caption file '{path.name}' has more than {MOST_BYTES:,} bytes")
    try:
        return clean_captions([data.decode("utf-8-sig")])
    except UnicodeDecodeError as error:
        raise BadSample(f"its caption file '{path.name}' is not UTF-8 ({error.reason} at {error.start})") from error


def clean_captions(captions: Iterable[str]) -> tuple[str, ...]:
    """The captions with normalized whitespace, without empty ones.

    Raises BadSample for a caption that is too long, and for lone surrogates, which JSON can hold.
    """
    cleaned = tuple(clean for caption in captions if (clean := " ".join(caption.split())))
    for caption in cleaned:
        try:
            size = len(caption.encode())
        except UnicodeEncodeError as error:
            raise BadSample(f"a caption is no Unicode text ({error.reason} at {error.start})") from error
        if size > MOST_BYTES:
            raise BadSample(f"a caption has {size:,} bytes; at most {MOST_BYTES:,} are taken")
    return cleaned


# tables


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; "" takes the first of the usual names that it has, whatever their case."""

    path: str = ""
    caption: str = ""
    label: str = ""


USUAL_COLUMNS = Columns()


class Words(NamedTuple):
    """The captions and label of a file in a table."""

    captions: tuple[str, ...]
    label: str


class CaptionTable:
    """Captions and labels of files, from a CSV, TSV, JSON-lines or Parquet file.

    Several rows of one file, or a column of lists, are several captions. Raises PhenakiError for a table that is
    missing, unreadable or not UTF-8, and for a missing column.
    """

    def __init__(self, path: str | Path, columns: Columns = USUAL_COLUMNS) -> None:
        self.path = Path(path)
        self._rows: dict[str, Words] = {}
        self._owners: dict[str, str] = {}
        for name, captions, label in _read_rows(self.path, columns):
            name = posixpath.normpath(name.strip()) if name.strip() else ""
            old = self._rows.get(name, Words((), ""))
            self._rows[name] = Words(old.captions + captions, old.label or label)

    def claim(self, folder: Path, relative: str) -> Words | None:
        """The row of the file `relative` of `folder`, which the table may name without its folder and suffix.

        Raises PhenakiError if one row matches two files.
        """
        plain = posixpath.splitext(relative)[0]
        absolute = posixpath.join(folder.absolute().as_posix(), relative)
        names = (relative, plain, absolute, posixpath.basename(relative), posixpath.basename(plain))
        row = next((name for name in names if name in self._rows), None)
        if row is None:
            return None
        owner = self._owners.setdefault(row, absolute)
        if owner != absolute:
            raise PhenakiError(
                f"'{row}' in '{self.path}' matches two files, '{owner}' and '{absolute}': write full paths."
            )
        return self._rows[row]

    def unclaimed(self) -> list[str]:
        """Names in the table that no file has claimed."""
        return [name for name in self._rows if name not in self._owners]

    def check_claimed(self) -> None:
        """Raise PhenakiError if no file has claimed any row."""
        if not self._owners:
            raise PhenakiError(
                f"The table '{self.path}' names none of the files there are; it names "
                f"{', '.join(map(repr, list(self._rows)[:3])) or 'none at all'}. "
                "Write their paths as they are in the folder."
            )


def _read_rows(path: Path, columns: Columns) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Name, captions and label of each row."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PhenakiError(f"A table of captions ends in {', '.join(TABLE_ENDINGS)}; '{path}' does not.")
    try:
        yield from reader(path, columns)
    except FileNotFoundError as error:
        raise PhenakiError(f"There is no table '{path}'.") from error
    except OSError as error:
        raise PhenakiError(f"The table '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise PhenakiError(f"The table '{path}' is not UTF-8: save it as UTF-8, or convert it with iconv.") from error


def _read_csv(path: Path, columns: Columns) -> Iterator[tuple[str, tuple[str, ...], str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(file.readline())
        file.seek(0)
        rows = csv.DictReader(file, delimiter=delimiter)
        try:
            found = _find_columns(path, rows.fieldnames or (), columns)
            for row in rows:
                yield _read_row(row, found)
        except csv.Error as error:
            raise PhenakiError(f"The table '{path}' cannot be read after line {rows.line_num}: {error}.") from error


def _delimiter(header: str) -> str:
    """Spreadsheets write semicolons in locales with decimal commas."""
    return ";" if header.count(";") > header.count(",") else ","


def _read_json_lines(path: Path, columns: Columns) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """The first line determines the columns."""
    found = None
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise PhenakiError(f"The table '{path}' has no JSON in line {number}: {error}.") from error
            if not isinstance(row, dict):
                raise PhenakiError(f"The table '{path}' has no JSON object in line {number}, but {line.strip()[:40]}.")
            found = found or _find_columns(path, tuple(row), columns)
            yield _read_row(row, found)


def _read_parquet(path: Path, columns: Columns) -> Iterator[tuple[str, tuple[str, ...], str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PhenakiError(f"'{path}' is Parquet, for which pip install \"phenaki[data]\" is needed.") from error
    try:
        with parquet.ParquetFile(path) as file:
            found = _find_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(columns=[name for name in astuple(found) if name]):
                for row in batch.to_pylist():
                    yield _read_row(row, found)
    except pyarrow.ArrowException as error:
        raise PhenakiError(f"'{path}' cannot be read as Parquet: {error}.") from error


def _find_columns(path: Path, there: Sequence[str], wanted: Columns) -> Columns:
    """The names of the columns in the table; "" for caption or label if it has only the other."""

    def find(named: str, usual: tuple[str, ...]) -> str:
        if named and named not in there:
            near = did_you_mean(named, there)
            raise PhenakiError(f"The table '{path}' has no column '{named}'.{near} It has: {', '.join(there)}.")
        by_lower = {name.lower(): name for name in reversed(there)}
        return named or next((by_lower[name] for name in usual if name in by_lower), "")

    found = Columns(
        path=find(wanted.path, _PATH_COLUMNS),
        caption=find(wanted.caption, _CAPTION_COLUMNS),
        label=find(wanted.label, _LABEL_COLUMNS),
    )
    if not found.path:
        raise _missing(path, "file names", _PATH_COLUMNS, there)
    if not found.caption and not found.label:
        raise _missing(path, "captions or labels", _CAPTION_COLUMNS + _LABEL_COLUMNS, there)
    return found


def _missing(path: Path, what: str, usual: tuple[str, ...], there: Sequence[str]) -> PhenakiError:
    return PhenakiError(
        f"The table '{path}' has no column of {what} ({', '.join(usual)}). It has: "
        f"{', '.join(there) or 'none'}. Say which one it is."
    )


def _read_row(row: dict[str, Any], columns: Columns) -> tuple[str, tuple[str, ...], str]:
    captions = row.get(columns.caption)
    if not isinstance(captions, list):
        captions = [captions]
    texts = tuple(str(caption) for caption in captions if caption is not None)
    return _text(row.get(columns.path)), texts, _text(row.get(columns.label))


def _text(value: Any) -> str:
    """Lone surrogates, which JSON can hold and no file name can, become question marks."""
    return "" if value is None else str(value).strip().encode(errors="replace").decode()
