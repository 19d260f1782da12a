"""A folder tree of videos and images as samples."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from unicodedata import normalize

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.actions import DATASET, SUFFIX, read_action_spec
from phenaki.data.captions import (
    CaptionTable,
    TimedCaption,
    Words,
    clean_captions,
    clean_timed_captions,
    read_caption_file,
    read_timed_captions,
)
from phenaki.data.layouts import own_table, words_of_label
from phenaki.data.sample import EncodedSample
from phenaki.data.table_rows import TABLE_ENDINGS, USUAL_COLUMNS, Columns
from phenaki.media.frames import ENDING as FRAMES
from phenaki.media.frames import is_clip
from phenaki.media.reader import PICTURES, VIDEOS

MEDIA = VIDEOS | PICTURES
_BESIDE_MEDIA = {".txt", ".json", ".npy", ".md", *TABLE_ENDINGS}  # endings of captions, actions and descriptions


class Folder:
    """The videos and images under `root`, sorted by path; hidden files are skipped, links are followed. A folder of
    frame_0001.png and so on in it is a video.

    Captions come from `table`, else from one with the `columns` that lies there (`layouts.own_table`), else from
    `clip.captions.json` beside `clip.mp4`, for captions that change, else from `clip.txt`. `label_from_folder` labels
    files without a label with the name of their folder, `split_labels` at its capitals. Without `captions`, none are
    looked for, so none can be invalid. With `actions`, dataset.json in `root` names the actions, if there are any, and
    `clip.actions.npy` is the table of `clip.mp4`.

    `folder[i]` reads only the caption file; it is a BadSample if the caption is unusable. Folders that could not be
    opened follow after the files, each a BadSample too. `unclaimed`: names in the folder's own table without a file.
    `other_endings`: how many files have endings of neither media nor captions. Memory: about 100 bytes per file.

    Raises PhenakiError for a folder that is missing or holds no media, for action tables without names, and as
    `CaptionTable` does.
    """

    def __init__(
        self,
        root: str | Path,
        table: CaptionTable | None = None,
        label_from_folder: bool = False,
        columns: Columns = USUAL_COLUMNS,
        captions: bool = True,
        actions: bool = False,
        split_labels: bool = False,
    ) -> None:
        self.root, self.captions = Path(root), captions
        if not self.root.is_dir():
            what = "is a file, no folder: name the one that it lies in" if self.root.exists() else "is not there"
            raise PhenakiError(f"The folder of videos '{root}' {what}.")
        self.label_from_folder, self._split_labels = label_from_folder, split_labels
        self.actions = read_action_spec(str(root)) if actions else None
        self._closed: dict[str, str] = {}  # folders, with a slash at the end, and why
        self._action_table = ""  # the first one seen
        self.other_endings: Counter[str] = Counter()
        names = sorted(self._media_under(self.root, "", set()))
        if not names:
            reasons = "".join(f" '{name}' cannot be opened: {why}." for name, why in self._closed.items())
            raise PhenakiError(
                f"The folder '{root}' holds no videos or pictures ({', '.join(sorted(MEDIA))}), nor do those in it."
                + reasons
            )
        if actions and self._action_table and not self.actions:
            raise PhenakiError(
                f"'{root}' has action tables ('{self._action_table}'), but no {DATASET} at its top says what their "
                'columns are: {"actions": {"names": ["left", "mouse_x"], "kinds": ["button", "relative"]}}'
            )
        self._paths = _Strings([*names, *self._closed])
        self.unclaimed: list[str] = []
        self._words = None
        own = None if table or not captions else own_table(self.root, columns)
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
        """Whether captions come from a table."""
        return self._words is not None

    def digest(self) -> str:
        """Hash of the sorted paths."""
        return self._paths.digest()

    @property
    def joins_samples(self) -> bool:
        """Whether several samples lie in one file."""
        return False

    def files(self, index: int) -> list[Path]:
        """All on which a sample depends, but for its captions."""
        path = self.path(index)
        return [path, beside(path, SUFFIX)] if self.actions else [path]

    def path(self, index: int) -> Path:
        return self.root / self._paths[index]

    def key(self, index: int) -> str:
        """The name in messages, with which those of a BadSample start."""
        return _for_people(self._paths[index])

    def __getitem__(self, index: int) -> EncodedSample | BadSample:
        path, key = self.path(index), self.key(index)
        if key in self._closed:
            return BadSample(f"{key}: the folder cannot be opened: {self._closed[key]}")
        sample = EncodedSample(key, path, FRAMES if path.is_dir() else path.suffix.lower())
        if self.actions:
            sample = sample._replace(actions=beside(path, SUFFIX))
        if not self.captions:
            return sample
        words = Words(*((json.loads(self._words[index]) if self._words else None) or ((), "")))
        timed: tuple[TimedCaption, ...] = ()
        try:
            captions = () if words.timed else clean_captions(words.captions)
            if not captions:
                timed_file = beside(path, ".captions.json")
                timed = clean_timed_captions(words.captions) if words.timed else read_timed_captions(timed_file)
                captions = () if timed else read_caption_file(beside(path, ".txt"))
        except BadSample as error:
            return BadSample(f"{key}: {error}")
        label = words.label
        if not label and self.label_from_folder:
            label = os.path.basename(os.path.dirname(key))
            label = words_of_label(label) if self._split_labels else label
        return sample._replace(captions=captions, timed_captions=timed, label=label)

    def _media_under(self, folder: Path, inside: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        """Paths relative to the root. `seen`: each folder is listed once, so that loops of links end."""
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
        media = [name for name, is_folder in found if not is_folder and os.path.splitext(name)[1].lower() in MEDIA]
        if inside and is_clip(media):
            yield inside.rstrip("/")
            return
        for name, is_folder in found:
            if is_folder:
                yield from self._media_under(folder / name, f"{inside}{name}/", seen)
            elif os.path.splitext(name)[1].lower() in MEDIA:
                yield inside + name
            elif name.endswith(SUFFIX):
                self._action_table = self._action_table or _for_people(inside + name)
            elif (ending := os.path.splitext(name)[1].lower()) not in _BESIDE_MEDIA:
                self.other_endings[_for_people(ending) or "no ending"] += 1


def beside(path: Path, ending: str) -> Path:
    """The file of the same name with another ending; the letters of its name may be composed otherwise (NFC, NFD)."""
    plain = path.with_suffix(ending)
    if plain.name.isascii() or os.path.lexists(plain):
        return plain
    others = (plain.with_name(normalize(form, plain.name)) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.lexists(other)), plain)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A dangling or circular link counts as a file, which is refused when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _for_people(path: str) -> str:
    """File names may be any bytes, but what is printed or written to JSON must be Unicode."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Strings:
    """Many strings in two objects: a list of a million takes 100 MB more, again in each forked worker."""

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
