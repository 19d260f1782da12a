"""Shards: tar files in WebDataset's layout, read sequentially from any sample, and written atomically.

The members of a sample are consecutive: "park/0001.mp4", "park/0001.txt" and "park/0001.json" are the fields mp4, txt
and json of the sample "park/0001". The key ends at the first dot after the last slash.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.actions import FIELD as ACTIONS
from phenaki.data.captions import MOST_BYTES, TimedCaption, clean_captions, clean_timed_captions
from phenaki.data.sample import EncodedSample
from phenaki.data.storage import BLOCK, is_remote, join, make_folder, open_atomic, open_from
from phenaki.media.reader import PICTURES, VIDEOS

END = -1  # the offset after a shard that cannot be read any further


class Unreadable(BadSample):
    """A shard, or the rest of one, that is missing or refused, or whose server is lost."""


_MEDIA = VIDEOS | PICTURES | {".safetensors"}  # the last is of token shards
_MOST = {"media": 2 * 2**30, "txt": MOST_BYTES, "json": 2**20, ACTIONS: 2**28}  # bytes of a member that is read
_MOST_HEADER = 2**20  # bytes of an extended header
_END_MARK = bytes(2 * tarfile.BLOCKSIZE)
_KEY = re.compile(r"(?:(?!\.\.?/)[^/\x00-\x1f\ud800-\udfff]+/)*[^./\x00-\x1f\ud800-\udfff]+")
_FIELD = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")


# reading


def read_shard(
    url: str, offset: int = 0, captions: bool = True, actions: bool = False
) -> Iterator[tuple[EncodedSample | BadSample, int]]:
    """The samples of the shard at a path or URL, each with the byte offset of the next one.

    Reading from such an `offset` yields exactly the samples that follow. The media is the first member with a known
    suffix; `.txt` is a caption in UTF-8; `.json` holds metadata, from which `captions` (a list of further captions, or
    of those that change) and `label` are removed; `.actions.npy` is an action table. Other fields, folders and hidden
    files are skipped. Without `captions` or `actions`, none are read, so none can be invalid.

    Never raises: an unusable sample is yielded as a BadSample with its name, and so is, after the complete samples, the
    rest of a shard that is truncated, corrupt or Unreadable.
    """
    if offset == END:
        return
    shard = posixpath.basename(url.partition("?")[0]) if is_remote(url) else os.path.basename(url)
    skip = {field for field, read in (("txt", captions), (ACTIONS, actions)) if not read}
    try:
        with open_from(url, offset) as file:
            yield from _samples(_Tape(file, offset), shard, skip)
    except BadSample as error:
        yield BadSample(f"{shard}: {error}"), END
    except (PhenakiError, OSError) as error:
        yield Unreadable(f"{shard}: {error}"), END


def first_field(url: str) -> str:
    """The field of the shard's first member, such as "mp4"; "" if it cannot be read."""
    try:
        with open_from(url) as file:
            return next((field for _, _, field, _ in _members(_Tape(file, 0))), "")
    except (PhenakiError, OSError):
        return ""


def _samples(tape: _Tape, shard: str, skip: set[str]) -> Iterator[tuple[EncodedSample | BadSample, int]]:
    gathered: _Gathered | None = None
    for start, key, field, size in _members(tape):
        if gathered is not None and gathered.key != key:
            yield gathered.sample(shard), start
            gathered = None
        gathered = gathered or _Gathered(key, skip)
        gathered.add(field, size, tape)
    end = tape.position - tarfile.BLOCKSIZE
    if gathered is not None:
        yield gathered.sample(shard), end
    tape.check_nothing_follows()


class _Gathered:
    """Collects the fields of one sample; data that is not needed is left on the tape."""

    def __init__(self, key: str, skip: set[str]) -> None:
        self.key, self._skip = key, skip
        self._suffix = ""
        self._data: dict[str, bytes] = {}
        self._fields: set[str] = set()
        self._faults: list[str] = []

    def add(self, field: str, size: int, tape: _Tape) -> None:
        suffix = f".{field.rpartition('.')[2]}"
        kind = "media" if suffix in _MEDIA else field
        if field in self._fields:
            self._faults.append(f"it has two members '{field}'")
        elif kind in _MOST and kind not in self._data and kind not in self._skip:
            if size > _MOST[kind]:
                self._faults.append(f"its '{field}' has {size:,} bytes; at most {_MOST[kind]:,} are taken")
            else:
                self._data[kind] = tape.take(size)
                self._suffix = suffix if kind == "media" else self._suffix
        self._fields.add(field)

    def sample(self, shard: str) -> EncodedSample | BadSample:
        name = f"{shard}/{self.key}"
        try:
            if self._faults:
                raise BadSample(self._faults[0])
            if "media" not in self._data:
                raise BadSample(f"it has no video or picture, only {', '.join(sorted(self._fields))}")
            metadata = _metadata(self._data.get("json", b"{}"))
            more, label = metadata.pop("captions", []), metadata.pop("label", "")
            words = ((), (), "") if "txt" in self._skip else self._words(more, label)
        except BadSample as error:
            return BadSample(f"{name}: {error}")
        captions, timed, label = words
        actions = self._data.get(ACTIONS)
        return EncodedSample(name, self._data["media"], self._suffix, captions, label, metadata, timed, actions)

    def _words(self, more: Any, label: Any) -> tuple[tuple[str, ...], tuple[TimedCaption, ...], str]:
        """The captions, with `more` of them from the .json, or those that change, and the label."""
        if isinstance(more, list) and isinstance(label, str) and any(isinstance(caption, dict) for caption in more):
            return (), clean_timed_captions(more), label
        if not isinstance(more, list) or not all(isinstance(text, str) for text in [*more, label]):
            raise BadSample("its .json needs a list of texts as 'captions' and a text as 'label'")
        return clean_captions([_text(self._data.get("txt", b"")), *more]), (), label


def _metadata(data: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"its .json cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise BadSample("its .json is no object {...}")
    return metadata


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(f"its .txt is not UTF-8 ({error.reason} at {error.start})") from error


# the tar format


class _Tape:
    """The bytes of a tar file in order. tarfile would silently treat truncation or corruption as the end."""

    def __init__(self, file: BinaryIO, position: int) -> None:
        self._file = file
        self.position = position

    def take(self, count: int) -> bytes:
        data = self._file.read(count)
        self.position += len(data)
        if len(data) < count:
            raise self._cut()
        return data

    def pass_over(self, count: int) -> None:
        while count:
            count -= len(self.take(min(count, BLOCK)))

    def header(self) -> tarfile.TarInfo | None:
        """The next member's header, extended headers applied; None at the end mark."""
        extended: dict[str, str] = {}
        while True:
            start = self.position
            info = self._header_block()
            if info is None:
                return None
            try:
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    extended["path"] = self._extension(info).rstrip(b"\0").decode("utf-8", "backslashreplace")
                elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                    extended |= _pax(self._extension(info))
                elif info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                    self._extension(info)
                else:
                    info.name, info.size = extended.get("path", info.name), int(extended.get("size", info.size))
                    if info.size < 0 or info.type == tarfile.GNUTYPE_SPARSE:
                        raise ValueError("a member of unknown size")
                    return info
            except ValueError as error:
                raise self._broken(start) from error

    def _header_block(self) -> tarfile.TarInfo | None:
        start = self.position
        block = self._file.read(tarfile.BLOCKSIZE)
        self.position += len(block)
        if not block:
            raise BadSample("it is an empty file" if not start else f"it ends at byte {start:,} without an end mark")
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.EOFHeaderError:
            if not start:
                raise BadSample("it holds no members") from None
            return None
        except tarfile.HeaderError as error:
            cut = start and isinstance(error, tarfile.TruncatedHeaderError)
            raise self._cut() if cut else self._broken(start) from error

    def _extension(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _MOST_HEADER:
            raise ValueError("an extended header of unlikely size")
        data = self.take(info.size)
        self.pass_over(-info.size % tarfile.BLOCKSIZE)
        return data

    def check_nothing_follows(self) -> None:
        """Only zeros may follow the end mark; a hole in a file looks like one, but data follow it."""
        mark = self.position - tarfile.BLOCKSIZE
        while data := self._file.read(BLOCK):
            if data.count(0) < len(data):
                raise BadSample(f"it has an end mark at byte {mark:,}, and data behind it, which are lost")

    def _cut(self) -> BadSample:
        return BadSample(f"it is cut off at byte {self.position:,}; what began before and did not end is lost")

    def _broken(self, start: int) -> BadSample:
        if not start:
            return BadSample("it is no tar file")
        return BadSample(f"it is broken at byte {start:,}; what began before and did not end and what follows is lost")


def _members(tape: _Tape) -> Iterator[tuple[int, str, str, int]]:
    """Offset, key, field and size of each member; its data are next on the tape and may be left there."""
    while True:
        start = tape.position
        info = tape.header()
        if info is None:
            return
        follow = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES  # folders and links have no data
        end = tape.position + (-(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if follow else 0)
        folder, base = posixpath.split(info.name.removeprefix("./"))
        key, _, field = base.partition(".")
        if info.isreg() and key and field:  # without a key it is hidden, such as the "._" files of macOS
            yield start, posixpath.join(folder, key), field.lower(), info.size
        tape.pass_over(end - tape.position)


def _pax(data: bytes) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE\\n", where LENGTH counts the whole record."""
    records = {}
    while data:
        length = int(data.partition(b" ")[0])
        record = data[:length]
        if not 0 < length <= len(data) or record[-1:] != b"\n":
            raise ValueError("a record of wrong length")
        key, _, value = record[:-1].partition(b" ")[2].partition(b"=")
        records[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        data = data[length:]
    return records


# writing


class Shard(NamedTuple):
    """A finished shard: its path or URL, number of samples, and size in bytes."""

    url: str
    samples: int
    bytes: int


class ShardWriter:
    """Writes samples as prefix-000000.tar, ... into a local folder, which is created, or at s3://.

    A shard holds at most `max_samples` samples, and `max_bytes` unless a single sample is larger. Shards appear
    atomically: those in `finished` are permanent, and a later writer continues after them with `first`, the number of
    its first shard. Equal samples give equal bytes. A context manager: an unfinished shard is dropped if the block
    raises. Raises PhenakiError if it cannot write.
    """

    def __init__(
        self, folder: str, prefix: str = "shard", max_bytes: int = 2**30, max_samples: int = 10_000, first: int = 0
    ) -> None:
        self.finished: list[Shard] = []
        self._folder, self._prefix, self._first = folder, prefix, first
        self._max_bytes, self._max_samples = max_bytes, max_samples
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._keys: set[str] = set()
        self._bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish_shard()
        else:
            self._open.__exit__(kind, error, trace)

    def write(self, key: str, fields: Mapping[str, bytes]) -> None:
        """Append a sample. Raises PhenakiError for a key or field that could not be read back.

        A key may contain folders, but no dot after the last slash; fields are lower case, such as "mp4".
        """
        self._check(key, fields)
        parts = [part for field, data in fields.items() for part in _member(f"{key}.{field}", data)]
        size = sum(map(len, parts))
        if self._keys and self._bytes + size + len(_END_MARK) > self._max_bytes:
            self.finish_shard()
        if self._file is None:
            make_folder(self._folder)
            self._file = self._open.enter_context(open_atomic(self._url()))
        for part in parts:
            self._file.write(part)
        self._keys.add(key)
        self._bytes += size
        if len(self._keys) == self._max_samples:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Finish the current shard, if there is one; the next sample starts another."""
        if self._file is None:
            return
        self._file.write(_END_MARK)
        self._open.close()
        self.finished.append(Shard(self._url(), len(self._keys), self._bytes + len(_END_MARK)))
        self._file, self._keys, self._bytes = None, set(), 0

    def _url(self) -> str:
        return join(self._folder, f"{self._prefix}-{self._first + len(self.finished):06d}.tar")

    def _check(self, key: str, fields: Mapping[str, bytes]) -> None:
        if not _KEY.fullmatch(key):
            raise PhenakiError(
                f"'{key}' cannot be the key of a sample: keys have no dot after the last slash, no empty part and no "
                "control characters."
            )
        if key in self._keys:
            raise PhenakiError(f"The sample '{key}' is in '{self._url()}' already; the keys of a shard are different.")
        if not fields or not all(_FIELD.fullmatch(field) for field in fields):
            raise PhenakiError(f"The fields of '{key}' are named like mp4, txt and json, not {', '.join(fields)!r}.")


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    info = tarfile.TarInfo(name)  # of the year 1970 and of nobody, so that equal samples make equal bytes
    info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"), data, bytes(-len(data) % tarfile.BLOCKSIZE)
