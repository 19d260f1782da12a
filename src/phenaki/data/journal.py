"""The outcome of each source that is packed, so that packing can stop anywhere and resume."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from phenaki.core.config import changes
from phenaki.core.errors import PhenakiError
from phenaki.core.files import writing
from phenaki.data.shards import Shard
from phenaki.data.storage import is_remote, join, open_from, to_json

JOURNAL = "journal.jsonl"
SPLITS = ("train", "validation")


class Outcome(NamedTuple):
    """The outcome of a source. Without samples it was refused."""

    digest: str = ""
    split: str = ""
    samples: int = 0
    seconds: float = 0.0
    captioned: bool = False
    refused: str = ""


class Journal:
    """The outcome of each source, and the finished shards, as lines of JSON in `out`, or in the user's cache if `out`
    is remote. A line cut off by a crash or a full disk is dropped, and its work repeated.
    """

    def __init__(self, out: str, options: dict[str, Any], fingerprint: str) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        self.path = _journal_path(out)
        with writing(self.path):
            self._file = open(self.path, "r+b" if self.path.exists() else "x+b", buffering=0)
        try:
            self._lock(out)
            head = json.loads(to_json({"options": options, "sources": fingerprint}))
            self._read(out, head)
            self._check_shards(out)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def todo(self, indices: Iterable[int]) -> list[int]:
        """The sources that are not completely in finished shards."""
        left = {name: sum(shard.samples for shard in shards) for name, shards in self.shards.items()} | {"": 0}
        todo = []
        for number in indices:
            outcome = self.outcomes.get(number)
            if outcome is None:
                todo.append(number)
                continue
            if outcome.samples > left[outcome.split]:
                todo.append(number)
            left[outcome.split] = max(0, left[outcome.split] - outcome.samples)
        return todo

    def add_outcome(self, number: int, outcome: Outcome) -> None:
        self._append([number, *outcome])
        self.outcomes[number] = outcome

    def add_shard(self, split: str, shard: Shard) -> None:
        self._append([split, *shard._replace(url=posixpath.basename(shard.url))])
        with writing(self.path):
            os.fsync(self._file.fileno())
        self.shards[split].append(shard)

    def _append(self, line: Any) -> None:
        with writing(self.path):
            data = memoryview(to_json(line))
            while data:
                data = data[self._file.write(data) :]

    def _lock(self, out: str) -> None:
        if os.name != "posix":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PhenakiError(f"Another process is packing into '{out}'.") from error

    def _read(self, out: str, head: dict[str, Any]) -> None:
        lines = self._file.read().split(b"\n")
        torn = len(lines.pop())
        self._file.truncate(self._file.seek(-torn, os.SEEK_END))
        for line in map(json.loads, lines[1:]):
            if isinstance(line[0], int):
                self.outcomes[line[0]] = Outcome(*line[1:])
            else:
                self.shards[line[0]].append(Shard(*line[1:]))
        begun = json.loads(lines[0]) if lines else None
        if begun == head:
            return
        if any(self.shards.values()):
            raise PhenakiError(f"{_difference(out, begun, head)} Choose another folder, or remove what is there.")
        self.outcomes.clear()
        self._file.truncate(0)
        self._file.seek(0)
        self._append(head)

    def _check_shards(self, out: str) -> None:
        """Raise PhenakiError if the last shard of a split is missing: its samples would not be packed again."""
        for split, shards in self.shards.items():
            for shard in shards[-1:]:
                try:
                    open_from(join(join(out, split), posixpath.basename(shard.url))).close()
                except PhenakiError as error:
                    way_out = f"To pack it again, remove the journal '{self.path}'."
                    raise PhenakiError(f"{error} {way_out}") from error


def _difference(out: str, begun: dict[str, Any], head: dict[str, Any]) -> str:
    for name, old, value in changes(begun["options"], head["options"], ""):
        return f"Packing into '{out}' began with {name} {json.dumps(old)}, not {json.dumps(value)}."
    return f"The sources have changed since packing into '{out}' began."


def _journal_path(out: str) -> Path:
    """Its folder is created. Raises PhenakiError for a folder with other things."""
    if is_remote(out):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phenaki"
        name = f"pack-{hashlib.sha256(out.encode()).hexdigest()[:16]}.jsonl"
    else:
        folder, name = Path(out.removeprefix("file://")), JOURNAL
    if folder.exists() and not folder.is_dir():
        raise PhenakiError(f"'{out}' is a file: name a new or an empty folder.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not is_remote(out) and not (folder / name).exists() and (other := next(folder.iterdir(), None)):
        raise PhenakiError(f"'{out}' already holds other things ('{other.name}'): name a new or an empty folder.")
    return folder / name
