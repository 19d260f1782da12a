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
from unicodedata import normalize

from phenaki.core.errors import BadSample, PhenakiError, shortened
from phenaki.data.actions import FIELD as ACTIONS
from phenaki.data.captions import MAX_JSON_BYTES, MOST_BYTES, TimedCaption, clean_captions, clean_timed_captions
from phenaki.data.sample import EncodedSample
from phenaki.data.storage import is_remote, join, make_folder, open_atomic, open_from
from phenaki.data.tape import Tape
from phenaki.media.reader import PICTURES, VIDEOS

END = -1  # the offset after a shard that cannot be read any further


class Unreadable(BadSample):
    """A shard, or the rest of one, that is missing or refused, or whose server is lost."""


# of a sample that holds several kinds, the first: a thumbnail beside a video is passed over
_MEDIA = {"videos": VIDEOS, "pictures": PICTURES, "token files": {".safetensors"}}
_BESIDE_MEDIA = ("txt", "json", ACTIONS)
_MOST = {"media": 2**30, "txt": MOST_BYTES, "json": MAX_JSON_BYTES, ACTIONS: 2**28}  # bytes of a member
_END_MARK = bytes(2 * tarfile.BLOCKSIZE)
_KEY = re.compile(r"(?:(?!\.\.?/)[^/\x00-\x1f\ud800-\udfff]+/)*[^./\x00-\x1f\ud800-\udfff]+")
_FIELD = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")


# reading


def read_shard(
    url: str, offset: int = 0, captions: bool = True, actions: bool = False
) -> Iterator[tuple[EncodedSample | BadSample, int]]:
    """The samples of the shard at a path or URL, each with the byte offset of the next one.

    Reading from such an `offset` yields exactly the samples that follow. The media is the one video or, without one,
    the one picture; `.txt` is a caption in UTF-8; `.json` holds metadata, from which `captions` (a list of further
    captions, or of those that change) and `label` are removed; `.actions.npy` is an action table. These are named like
    the media: "v2.txt" beside "v2.mp4". Other fields, folders and hidden files are skipped. Without `captions` or
    `actions`, none are read, so none can be invalid.

    Never raises: an unusable sample is yielded as a BadSample with its name, and so is, after the complete samples, the
    rest of a shard that is truncated, corrupt or Unreadable.
    """
    if offset == END:
        return
    shard = posixpath.basename(url.partition("?")[0]) if is_remote(url) else os.path.basename(url)
    skip = {field for field, read in (("txt", captions), (ACTIONS, actions)) if not read}
    try:
        with open_from(url, offset) as file:
            yield from _samples(Tape(file, offset), shard, skip)
    except BadSample as error:
        yield BadSample(f"{shard}: {error}"), END
    except (PhenakiError, OSError) as error:
        yield Unreadable(f"{shard}: {error}"), END


def first_field(url: str) -> str:
    """The field of the shard's first member, such as "mp4"; "" if it cannot be read."""
    try:
        with open_from(url) as file:
            return next((field for _, _, field, _ in _members(Tape(file, 0))), "")
    except (PhenakiError, OSError):
        return ""


def _samples(tape: Tape, shard: str, skip: set[str]) -> Iterator[tuple[EncodedSample | BadSample, int]]:
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
        self._media: dict[str, list[str]] = {kind: [] for kind in _MEDIA}  # the fields of each kind
        self._data: dict[str, bytes] = {}
        self._too_large: dict[str, str] = {}
        self._fields: set[str] = set()
        self._repeated, self._stem = "", ""

    def add(self, field: str, size: int, tape: Tape) -> None:
        ending = f".{field.rpartition('.')[2]}"
        if field in self._fields:
            self._repeated = self._repeated or field
        elif kind := next((kind for kind, endings in _MEDIA.items() if ending in endings), None):
            self._media[kind].append(field)
            if self._media_field() == field:
                self._take("media", "media", field, size, tape)
        elif role := next((role for role in _BESIDE_MEDIA if field == role or field.endswith(f".{role}")), None):
            if role not in self._skip:
                self._take(field, role, field, size, tape)
        self._fields.add(field)

    def _take(self, name: str, role: str, field: str, size: int, tape: Tape) -> None:
        self._data.pop(name, None)
        self._too_large.pop(name, None)
        if size <= _MOST[role]:
            self._data[name] = tape.take(size)
        else:
            self._too_large[name] = f"its '{field}' has {size:,} bytes; at most {_MOST[role]:,} are taken"

    def _media_field(self) -> str:
        """The first field of the first kind that there is."""
        return next((fields[0] for fields in self._media.values() if fields), "")

    def sample(self, shard: str) -> EncodedSample | BadSample:
        name = f"{shard}/{self.key}"
        try:
            media = self._check_media()
            self._stem = media.rpartition(".")[0]
            data = self._part("media", exact=True)
            metadata = _metadata(self._part("json") or b"{}")
            more, label = metadata.pop("captions", []), metadata.pop("label", "")
            words = ((), (), "") if "txt" in self._skip else self._words(more, label)
            actions = self._part(ACTIONS)
        except BadSample as error:
            return BadSample(f"{name}: {error}")
        captions, timed, label = words
        suffix = f".{media.rpartition('.')[2]}"
        return EncodedSample(name, data, suffix, captions, label, _printable(metadata), timed, actions)

    def _check_media(self) -> str:
        if self._repeated:
            raise BadSample(f"it has two members '{self._repeated}'")
        for kind, fields in self._media.items():
            if len(fields) > 1:
                raise BadSample(
                    f"it holds {len(fields)} {kind} ({shortened(fields)}), and a sample has one: the name of a sample "
                    "ends at the first dot, so replace dots in names"
                )
            if fields:
                return fields[0]
        raise BadSample(f"it has no video or picture, only {', '.join(sorted(self._fields))}")

    def _part(self, role: str, exact: bool = False) -> bytes | None:
        """The data of a role, of the field that is named like the media or that has no more of a name."""
        for name in (role,) if exact or not self._stem else (f"{self._stem}.{role}", role):
            if name in self._too_large:
                raise BadSample(self._too_large[name])
            if name in self._data:
                return self._data[name]
        return None

    def _words(self, more: Any, label: Any) -> tuple[tuple[str, ...], tuple[TimedCaption, ...], str]:
        """The captions, with `more` of them from the .json, or those that change, and the label."""
        if isinstance(more, list) and isinstance(label, str) and any(isinstance(caption, dict) for caption in more):
            return (), clean_timed_captions(more), label
        if not isinstance(more, list) or not all(isinstance(text, str) for text in [*more, label]):
            raise BadSample("its .json needs a list of texts as 'captions' and a text as 'label'")
        captions = clean_captions([_text(self._part("txt") or b""), *more])
        others = sorted(field for field in self._fields if field.endswith(".txt"))
        if not captions and not label and self._part("txt") is None and others:
            wanted = f"{self._stem}.txt" if self._stem else "txt"
            raise BadSample(f"its texts are '{', '.join(others)}', and a caption is expected in '{wanted}'")
        clean_captions([label])  # raises for what is no text
        return captions, (), label


def _metadata(data: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"its .json cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise BadSample("its .json is no object {...}")
    return metadata


def _printable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Lone surrogates, which JSON can hold, neither print nor go into files: they become question marks."""
    text = json.dumps(metadata, ensure_ascii=False)
    return metadata if text.isascii() else json.loads(text.encode(errors="replace"))


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(f"its .txt is not UTF-8 ({error.reason} at {error.start})") from error


def _members(tape: Tape) -> Iterator[tuple[int, str, str, int]]:
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
            yield start, normalize("NFC", posixpath.join(folder, key)), field.lower(), info.size
        tape.pass_over(end - tape.position)


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
