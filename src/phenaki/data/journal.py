"""The outcome of each source that is packed, so that packing can stop anywhere and resume."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from phenaki.core.config import changes
from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json, parse_json_object, to_json, writing
from phenaki.core.locks import LOCK, lock
from phenaki.data.shards import Shard
from phenaki.data.storage import check_can_be_written, is_remote, join, open_atomic, open_from, read_optional

JOURNAL = "journal.jsonl"
SPLITS = ("train", "validation")


class Outcome(NamedTuple):
    """The outcome of a source. Without samples it was refused. note: what is odd about it, though it was packed."""

    digest: str = ""
    split: str = ""
    samples: int = 0
    seconds: float = 0.0
    captioned: bool = False
    refused: str = ""
    note: str = ""


class Journal:
    """The outcome of each source, and the finished shards, as lines of JSON in the folder `out`. A line cut off by a
    crash or a full disk is dropped, and its work repeated.
    """

    def __init__(self, out: str, options: dict[str, Any], fingerprint: str) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        self._closing = ExitStack()
        try:
            self._closing.enter_context(lock(_lock_path(out), out, "packing"))
            self._log = _RemoteLog(out) if is_remote(out) else self._closing.enter_context(_LocalLog(out))
            head = json.loads(to_json({"options": options, "sources": fingerprint}))
            self._read(out, head)
            self._check_shards(out)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

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
        self._log.commit()
        self.shards[split].append(shard)

    def _append(self, line: Any) -> None:
        self._log.append(to_json(line))

    def _read(self, out: str, head: dict[str, Any]) -> None:
        lines = self._log.lines()
        kept = lines[:1]
        for line in lines[1:]:
            try:
                self._take(parse_json(line, "the line"))
            except PhenakiError:
                break
            kept.append(line)
        begun = self._read_head(lines[0]) if lines else None
        if begun == head:
            self._log.keep(kept)
            return
        if any(self.shards.values()):
            raise PhenakiError(f"{_difference(out, begun, head)} Choose another folder, or remove what is there.")
        self.outcomes.clear()
        self._log.keep([])
        self._append(head)

    def _take(self, line: Any) -> None:
        """Take in a line after the first. Raises PhenakiError for one that is damaged."""
        kind, *values = line if isinstance(line, list) and line else (None,)
        if isinstance(kind, int) and not isinstance(kind, bool) and kind >= 0:
            outcome = _typed(Outcome, values)
            if outcome.split not in (*SPLITS, ""):
                raise PhenakiError(f"'{outcome.split}' is no split")
            self.outcomes[kind] = outcome
        elif kind in SPLITS:
            self.shards[kind].append(_typed(Shard, values))
        else:
            raise PhenakiError("it is neither an outcome nor a shard")

    def _read_head(self, line: bytes) -> dict[str, Any]:
        try:
            begun = parse_json_object(line, "its first line")
            if not isinstance(begun.get("options"), dict):
                raise PhenakiError("its first line has no options")
        except PhenakiError as error:
            raise PhenakiError(
                f"The journal '{self._log.path}' is damaged ({error}): remove it and the shards beside it, to pack "
                "again."
            ) from error
        return begun

    def _check_shards(self, out: str) -> None:
        """Raise PhenakiError if the last shard of a split is missing: its samples would not be packed again."""
        for split, shards in self.shards.items():
            for shard in shards[-1:]:
                try:
                    open_from(join(join(out, split), posixpath.basename(shard.url))).close()
                except PhenakiError as error:
                    way_out = f"To pack it again, remove the journal '{self._log.path}'."
                    raise PhenakiError(f"{error} {way_out}") from error


def _typed(kind: type, values: list[Any]) -> Any:
    """A NamedTuple of plain values of the annotated types. Raises PhenakiError for others."""
    types = get_type_hints(kind)
    if len(values) > len(types) or not all(
        type(value) is wanted or (wanted is float and type(value) is int)
        for value, wanted in zip(values, types.values(), strict=False)
    ):
        raise PhenakiError(f"{values} is no {kind.__name__}")
    try:
        return kind(*values)
    except TypeError as error:  # too few
        raise PhenakiError(f"{values} is no {kind.__name__}") from error


def _lock_path(out: str) -> Path:
    """In `out`, which is created; for remote ones in the user's cache. Raises PhenakiError for a folder with others."""
    if is_remote(out):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phenaki"
        name = f".pack-{hashlib.sha256(out.encode()).hexdigest()[:16]}.lock"
    else:
        folder, name = Path(out.removeprefix("file://")), LOCK
    if folder.exists() and not folder.is_dir():
        raise PhenakiError(f"'{out}' is a file: name a new or an empty folder.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not is_remote(out) and not (folder / JOURNAL).exists() and (other := _other_than_ours(folder)):
        raise PhenakiError(f"'{out}' already holds other things ('{other.name}'): name a new or an empty folder.")
    return folder / name


class _LocalLog:
    """Lines that are appended to a file; a context manager."""

    def __init__(self, out: str) -> None:
        self.path = Path(out.removeprefix("file://")) / JOURNAL
        with writing(self.path):
            if os.path.lexists(self.path) and not os.path.isfile(self.path):
                raise PhenakiError(f"The journal '{self.path}' is not a regular file: remove it, to pack again.")
            self._file = open(self.path, "r+b" if self.path.exists() else "x+b", buffering=0)

    def __enter__(self) -> _LocalLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self) -> list[bytes]:
        """Those that are complete."""
        self._file.seek(0)
        return self._file.read().split(b"\n")[:-1]

    def keep(self, lines: list[bytes]) -> None:
        """Keep the first ones, `lines`; others follow them."""
        with writing(self.path):
            self._file.truncate(self._file.seek(sum(len(line) + 1 for line in lines)))

    def append(self, line: bytes) -> None:
        with writing(self.path):
            data = memoryview(line)
            while data:
                data = data[self._file.write(data) :]

    def commit(self) -> None:
        with writing(self.path):
            os.fsync(self._file.fileno())


class _RemoteLog:
    """Lines in files journal/000000.jsonl, ... of a store, one of them for each commit, as files there do not grow.

    They are found by their numbers, without listing, from any machine.
    """

    def __init__(self, out: str) -> None:
        check_can_be_written(out)
        self.path = join(out, "journal")
        self._count, self._open = 0, b""

    def _url(self) -> str:
        return join(self.path, f"{self._count:06d}.jsonl")

    def lines(self) -> list[bytes]:
        found: list[bytes] = []
        while (data := read_optional(self._url())) is not None:
            found += data.split(b"\n")[:-1]
            self._count += 1
        return found

    def keep(self, lines: list[bytes]) -> None:
        """Files appear at once, so that there are no incomplete lines; their numbers go on."""

    def append(self, line: bytes) -> None:
        self._open += line

    def commit(self) -> None:
        with open_atomic(self._url()) as file:
            file.write(self._open)
        self._count, self._open = self._count + 1, b""


def _difference(out: str, begun: dict[str, Any], head: dict[str, Any]) -> str:
    for name, old, value in changes(begun["options"], head["options"], ""):
        return f"Packing into '{out}' began with {name} {json.dumps(old)}, not {json.dumps(value)}."
    return f"The sources have changed since packing into '{out}' began."


def _other_than_ours(folder: Path) -> Path | None:
    """A file that is no trace of a pack that was killed at its start."""
    return next((path for path in folder.iterdir() if not path.name.startswith(".phenaki")), None)
