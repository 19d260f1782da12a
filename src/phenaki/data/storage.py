"""Places that hold data: local paths, http(s)://, s3:// and the other protocols fsspec has a library for.

What goes wrong there is said in a PhenakiError. Connections that drop are taken up again where they dropped.
"""

from __future__ import annotations

import glob
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from phenaki.core.errors import PhenakiError
from phenaki.core.files import to_json, write_atomic, writing
from phenaki.core.reading import open_regular

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SUFFIX = ".tar"  # of the files a folder is searched for
TRIES = 5  # in a row without a byte, before a server is given up
FIRST_WAIT = 1.0  # seconds before the second try, doubled for each further one
CONNECT_TIMEOUT, READ_TIMEOUT = 15, 30  # seconds of silence over HTTP
BLOCK = 2**20  # bytes read or copied at a time
READ_AHEAD = 4 * 2**20  # bytes per request of a file that is read by ranges
PART = 16 * 2**20  # bytes per part of an upload; stores accept 10,000 parts, so 160 GB

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")
_HTTP = ("http", "https")
_CREDENTIALS = {
    "s3": " (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws)",
    "hf": " (`hf auth login`, or HF_TOKEN)",
}
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3"}


class NotThere(PhenakiError):
    """A file, folder or bucket that is missing."""


# finding


def expand(uri: str) -> list[str]:
    """The files that `uri` names, sorted and unique, as paths or URLs that `open_from` accepts.

    A file, a folder or s3:// prefix (all .tar files below it), a pattern with * ? [..] and **, or with braces:
    "train-{000..127}.tar", "{a,b}.tar". Over http(s) only braces, as such servers do not list files. Of names from
    braces only the first is checked, since checking each takes long in a bucket; any other that is missing is reported
    when it is opened. Raises PhenakiError if nothing is found, and for a server that does not answer.
    """
    names = [uri] if os.path.lexists(uri) else _without_braces(uri)
    found = sorted({file for name in names for file in _listed(name)})
    if not found:
        raise PhenakiError(f"Nothing was found at '{uri}'. A folder is searched for files that end in {SUFFIX}.")
    open_from(found[0]).close()
    return found


def files_under(folder: str) -> Iterator[str]:
    """The paths of all files below a local folder, except hidden ones."""
    files = (os.path.join(inside, file) for inside, _, files in os.walk(folder) for file in files)
    return (file for file in files if not _is_hidden(file))


def is_remote(uri: str) -> bool:
    """Whether it is a URL, not a local path."""
    return bool(_protocol(uri))


def join(uri: str, name: str) -> str:
    """The path or URL of `name` in the folder `uri`."""
    return f"{uri.rstrip('/')}/{name}" if _protocol(uri) else os.path.join(uri, name)


def _without_braces(pattern: str) -> list[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last, words = braces.groups()
    indices = range(0) if words else range(int(first), int(last) + 1)
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    endings = _without_braces(after)
    if (count := len(endings) * max(len(indices), 1)) > 1_000_000:
        raise PhenakiError(f"The braces in '{pattern}' stand for {count:,} names; at most 1,000,000 are taken.")
    choices = words.split(",") if words else [str(n).zfill(len(first)) for n in indices]
    return [f"{before}{choice}{ending}" for choice in choices for ending in endings]


def _listed(name: str) -> list[str]:
    protocol = _protocol(name)
    if protocol in _HTTP:
        return [name]
    if not protocol:
        return _listed_locally(_local(name))
    if name.endswith(SUFFIX) and not _MAGIC.search(name):
        return [name]
    with _spoken("Cannot list", name):
        return _listed_remotely(name)


def _listed_locally(name: str) -> list[str]:
    if os.path.isdir(name):
        return [file for file in files_under(name) if file.endswith(SUFFIX)]
    if _MAGIC.search(name) and not os.path.exists(name):
        return [file for file in glob.glob(name, recursive=True) if os.path.isfile(file)]
    return [name]


def _listed_remotely(name: str) -> list[str]:
    files, path = _file_system(name)
    files.invalidate_cache()  # of listings: others write there too
    if magic := _MAGIC.search(path):
        if not (found := files.glob(path)):
            files.ls(path[: magic.start()].rpartition("/")[0])  # raises for a bucket or folder that is not there
    else:
        found = [file for file in files.find(path) if file == path or file.endswith(SUFFIX) and not _is_hidden(file)]
    return [files.unstrip_protocol(file) for file in found]


def _is_hidden(file: str) -> bool:
    return os.path.basename(file).startswith(".")  # macOS leaves "._" files


# reading


def open_from(url: str, offset: int = 0) -> BinaryIO:
    """Open a path or URL for sequential reading from byte `offset`, in bounded memory.

    `read(n)` returns n bytes, fewer only at the end of the file; if the server reports the size, a connection that ends
    early counts as dropped. A dropped connection is reopened at the byte reached, TRIES times in a row with growing
    waits. Raises PhenakiError, also from `read`, for a file that is missing, refused or permanently lost.
    """
    if _protocol(url):
        return io.BufferedReader(_Resuming(url, offset), BLOCK)
    path = _local(url)
    if os.path.isdir(path):
        raise PhenakiError(f"Cannot read '{url}': that is a folder.")
    with _spoken("Cannot read", url):
        file = open_regular(path)
    file.seek(offset)
    return file


def read_optional(url: str) -> bytes | None:
    """All bytes of a description, or None if it does not exist. Raises PhenakiError as `open_from` does."""
    try:
        with open_from(url) as file:
            data = file.read(2**26 + 1)
    except NotThere:
        return None
    if len(data) > 2**26:
        raise PhenakiError(f"'{url}' has more than {2**26:,} bytes, so it describes no dataset.")
    return data


class _Resuming(io.RawIOBase):
    """The bytes of a remote file in order, over as many connections as it takes."""

    def __init__(self, url: str, position: int) -> None:
        self._url, self._position = url, position
        self._size: int | None = None  # if the server reports it
        self._file: Any = None
        self._tried(self._open)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._tried(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _open(self) -> None:
        files, path = _file_system(self._url)
        open_file = _open_response if _protocol(self._url) in _HTTP else _open_ranges
        self._file, size = open_file(files, path, self._position)
        if self._size and size and size != self._size:  # the rest would be of another file
            raise PhenakiError(f"'{self._url}' changed from {self._size:,} to {size:,} bytes while it was read.")
        self._size = size

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _read(self, count: int) -> bytes:
        if self._file is None:
            self._open()
        data = self._file.read(count)
        if not data and self._size is not None and self._position < self._size:
            raise ConnectionError("the connection ended before the file did")
        return data

    def _tried(self, action: Callable[[], Any]) -> Any:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                return action()
            except PhenakiError:
                raise
            except Exception as error:  # each protocol's library raises its own errors
                self._drop()
                if _final(self._url, error):
                    _fail(f"Cannot read '{self._url}'", self._url, error)
                last = error
        size = "" if self._size is None else f" of {self._size:,}"
        _fail(f"Reading '{self._url}' stopped at byte {self._position:,}{size}, after {TRIES} tries", self._url, last)


def _open_response(files: AbstractFileSystem, url: str, position: int) -> tuple[Any, int | None]:
    """One HTTP response from `position` on, and the size of the whole file: a request per block would wait for each."""
    import aiohttp

    # asked for a range, even of everything, a server reports the size, without compression that of the file
    headers = {"Range": f"bytes={position}-", "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
    try:
        # block_size=0 asks for the response itself, and any size keeps fsspec from asking for the size first
        file = files.open(url, block_size=0, size=1, headers=headers, timeout=timeout)
    except aiohttp.ClientResponseError as error:
        if error.status == 416:  # nothing follows `position`
            return io.BytesIO(), position
        raise
    if file.r.status == 206:
        total = file.r.headers.get("Content-Range", "").rpartition("/")[2]
        return file, int(total) if total.isdigit() else None
    _skip(file, position)  # the server does not support ranges and starts at 0
    return file, file.r.content_length


def _skip(file: Any, count: int) -> None:
    while count:
        data = file.read(min(count, BLOCK))
        if not data:
            raise ConnectionError("the connection ended before the offset to read from")
        count -= len(data)


def _open_ranges(files: AbstractFileSystem, path: str, position: int) -> tuple[Any, int | None]:
    file = files.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead")
    file.seek(position)
    return file, file.size


# writing


def check_outside(folder: str | Path, out: str) -> None:
    """Raise PhenakiError if `out` is, or is inside of, the local `folder` that is read."""
    if is_remote(out) or not os.path.isdir(folder):
        return
    if Path(_local(out)).resolve().is_relative_to(Path(folder).resolve()):
        raise PhenakiError(f"'{out}' lies within the source '{folder}': name a folder outside of it")


def make_folder(uri: str) -> None:
    """Create the folder `uri` if it does not exist; stores such as s3:// have no folders."""
    if not is_remote(uri):
        with writing(uri):
            os.makedirs(_local(uri), exist_ok=True)


def open_atomic(url: str) -> AbstractContextManager[BinaryIO]:
    """A binary file to write that gets the name `url` only when the block ends without an error.

    `url` is a local path in an existing folder (`files.write_atomic`), or at a store such as s3://, where uploaded
    parts are discarded if anything is raised. Raises PhenakiError if it cannot be written.
    """
    return _upload(url) if _protocol(url) else write_atomic(_local(url))


def check_can_be_written(url: str) -> None:
    """Raise PhenakiError for an address of which files are only read."""
    if _protocol(url) in _HTTP:
        raise PhenakiError(f"Cannot write '{url}': over http files are only read. Write to a folder or to s3://.")


def write_json(url: str, data: Any) -> None:
    """Write plain data as indented JSON, like `open_atomic`."""
    with open_atomic(url) as file:
        file.write(to_json(data, indent=2))


@contextmanager
def _upload(url: str) -> Iterator[BinaryIO]:
    upload = _Upload(url)
    try:
        yield upload
        upload.commit()
    except BaseException:
        upload.discard()
        raise


class _Upload(io.RawIOBase):
    """A file that is uploaded in parts while it is written, and exists after `commit`."""

    def __init__(self, url: str) -> None:
        self._url = url
        check_can_be_written(url)
        with _spoken("Cannot write", url):
            files, path = _file_system(url)
            self._file = files.open(path, "wb", block_size=PART, autocommit=False)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        with _spoken("Cannot write", self._url):
            return self._file.write(data)

    def commit(self) -> None:
        with _spoken("Cannot write", self._url):
            self._file.close()
            self._file.commit()

    def discard(self) -> None:
        self._file.closed = True  # else its finalizer keeps uploading, and hangs when Python exits
        with suppress(Exception):  # the original error matters
            self._file.discard()


# what goes wrong


def _protocol(url: str) -> str:
    """The protocol of a URL, "" for local paths."""
    protocol, separator, _ = url.partition("://")
    return protocol.lower() if separator and protocol != "file" else ""


def _local(url: str) -> str:
    return url.removeprefix("file://")


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system for `url`, and the path in it.

    Looked up at every use and never stored: its connections and their thread do not survive the fork of a worker, and
    fsspec keeps one per process.
    """
    from fsspec.core import url_to_fs

    return url_to_fs(url)


@contextmanager
def _spoken(trouble: str, url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each protocol's library raises its own errors
        _fail(f"{trouble} '{url}'", url, error)


def _fail(trouble: str, url: str, error: Exception) -> NoReturn:
    if missing := _missing(error):
        raise NotThere(f"{trouble}: {missing}.") from error
    lost = "the connection was lost" if type(error).__name__ == "ClientPayloadError" else ""  # of aiohttp
    reason = _final(url, error) or lost or f"{error}".rstrip(".") or type(error).__name__
    raise PhenakiError(f"{trouble}: {reason}.") from error


def _missing(error: Exception) -> str | None:
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket":
        return "there is no bucket of that name"
    if isinstance(error, FileNotFoundError | NotADirectoryError) or getattr(error, "status", None) in (404, 410):
        return "nothing of that name is there"
    return None


def _final(url: str, error: Exception) -> str | None:
    """Why retrying is pointless, or None if it is not."""
    protocol = _protocol(url)
    if missing := _missing(error):
        return missing
    if isinstance(error, PermissionError) and not protocol:
        return "permission is denied"
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return f"the server refuses access ({error}). Check the credentials{_CREDENTIALS.get(protocol, '')}"
    if type(error).__name__ == "NoCredentialsError":  # of botocore
        return f"no credentials were found{_CREDENTIALS['s3']}; for a public bucket, set FSSPEC_S3_ANON=true"
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(protocol)
        return f'pip install "phenaki[{extra}]" brings what reads {protocol}://' if extra else f"{error}"
    return f"{error}".rstrip(".") if isinstance(error, ValueError) else None
