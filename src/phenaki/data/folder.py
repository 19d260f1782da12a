"""A plain folder tree of videos and pictures as samples."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import (
    TABLE_ENDINGS,
    USUAL_COLUMNS,
    CaptionTable,
    Columns,
    clean_captions,
    read_caption_file,
)
from phenaki.data.sample import EncodedSample
from phenaki.media.reader import PICTURES, VIDEOS

MEDIA = VIDEOS | PICTURES


class Folder:
    """The videos and pictures under `root`, in the order of their paths; hidden ones are left out, links are followed.

    A caption comes from `table`, else from a table `captions.csv` (or .tsv, .jsonl, .parquet) in `root`, which has the
    `columns`, else from the text file beside the media (`clip.txt` beside `clip.mp4`). `label_from_folder` takes the
    name of the folder that a file lies in as the label of those without one.

    Without `captions` nobody asks for words: none are looked for, so none can be wrong.

    `folder[i]` reads the caption file alone; it is the BadSample of a file whose caption cannot be used. Behind the
    files come the folders that could not be opened, each a BadSample too. `unclaimed`: what the folder's own table
    names and is not there. A million files take about 100 bytes each.

    Raises PhenakiError for a folder that is missing or holds no media, and as `CaptionTable` does.
    """

    def __init__(
        self,
        root: str | Path,
        table: CaptionTable | None = None,
        label_from_folder: bool = False,
        columns: Columns = USUAL_COLUMNS,
        captions: bool = True,
    ) -> None:
        self.root, self.captions = Path(root), captions
        if not self.root.is_dir():
            what = "is a file, no folder: name the one that it lies in" if self.root.exists() else "is not there"
            raise PhenakiError(f"The folder of videos '{root}' {what}.")
        self.label_from_folder = label_from_folder
        self._closed: dict[str, str] = {}  # folders, with a slash at the end, and why
        names = sorted(self._media_under(self.root, "", set()))
        if not names:
            reasons = "".join(f" '{name}' cannot be opened: {why}." for name, why in self._closed.items())
            raise PhenakiError(
                f"The folder '{root}' holds no videos or pictures ({', '.join(sorted(MEDIA))}), nor do those in it."
                + reasons
            )
        self._paths = _Strings([*names, *self._closed])
        self.unclaimed: list[str] = []
        self._words = None
        own = None if table or not captions else self._own_table(columns)
        table = table or own
        if table:
            self._words = _Strings(json.dumps(table.claim(self.root, name)) for name in names)
        if own:
            table.check_claimed()
            self.unclaimed = table.unclaimed()

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def has_table(self) -> bool:
        """Whether a table says what its files show."""
        return self._words is not None

    def digest(self) -> str:
        """Of the paths, in their order."""
        return self._paths.digest()

    def path(self, index: int) -> Path:
        return self.root / self._paths[index]

    def key(self, index: int) -> str:
        """The name for people, which opens the sentence of a BadSample."""
        return _for_people(self._paths[index])

    def __getitem__(self, index: int) -> EncodedSample | BadSample:
        path, key = self.path(index), self.key(index)
        if key in self._closed:
            return BadSample(f"{key}: the folder cannot be opened: {self._closed[key]}")
        if not self.captions:
            return EncodedSample(key, path, path.suffix.lower())
        captions, label = (json.loads(self._words[index]) if self._words else None) or ((), "")
        try:
            captions = clean_captions(captions) or read_caption_file(path.with_suffix(".txt"))
        except BadSample as error:
            return BadSample(f"{key}: {error}")
        if not label and self.label_from_folder:
            label = os.path.basename(os.path.dirname(key))
        return EncodedSample(key, path, path.suffix.lower(), captions, label)

    def _media_under(self, folder: Path, inside: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        """Paths relative to the root. `seen`: a folder that links lead to again is listed once, so loops end."""
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                return
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries if entry.name[0] != ".")
        except OSError as error:
            self._closed[_for_people(inside or str(folder))] = error.strerror or str(error)
            return
        for name, is_folder in found:
            if is_folder:
                yield from self._media_under(folder / name, f"{inside}{name}/", seen)
            elif os.path.splitext(name)[1].lower() in MEDIA:
                yield inside + name

    def _own_table(self, columns: Columns) -> CaptionTable | None:
        tables = [self.root / f"captions{ending}" for ending in TABLE_ENDINGS]
        there = [table for table in tables if table.is_file()]
        if len(there) > 1:
            raise PhenakiError(f"'{self.root}' has two tables of captions, '{there[0].name}' and '{there[1].name}'.")
        return CaptionTable(there[0], columns) if there else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere or round in circles is a file, refused when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _for_people(path: str) -> str:
    """Names of files may be any bytes; what is printed and written to JSON is Unicode."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Strings:
    """Many strings in two objects: a list of a million would take 100 MB more, and again in each forked worker."""

    def __init__(self, strings: Iterable[str]) -> None:
        parts = [os.fsencode(string) for string in strings]
        self._bytes = b"".join(parts)
        self._ends = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def digest(self) -> str:
        return hashlib.sha256(self._ends.tobytes() + self._bytes).hexdigest()

    def __getitem__(self, index: int) -> str:
        at = range(len(self))[index]
        return os.fsdecode(self._bytes[self._ends[at] : self._ends[at + 1]])
