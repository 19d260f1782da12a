"""The tar format, read strictly: tarfile would silently treat truncation or corruption as the end."""

from __future__ import annotations

import tarfile
from typing import BinaryIO

from phenaki.core.errors import BadSample
from phenaki.data.storage import BLOCK

_MOST_HEADER = 2**20  # bytes of an extended header


class Tape:
    """The bytes of a tar file in order. Raises BadSample for what is truncated or corrupt."""

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
        """Only blocks of zeros may follow the end mark; a hole in a file looks like one, but data follow it."""
        mark = self.position - tarfile.BLOCKSIZE
        while data := self._file.read(BLOCK):
            self.position += len(data)
            if data.count(0) < len(data):
                raise BadSample(f"it has an end mark at byte {mark:,}, and data behind it, which are lost")
        if self.position % tarfile.BLOCKSIZE:
            raise self._cut()

    def _cut(self) -> BadSample:
        return BadSample(f"it is cut off at byte {self.position:,}; what began before and did not end is lost")

    def _broken(self, start: int) -> BadSample:
        if not start:
            return BadSample("it is no tar file")
        return BadSample(f"it is broken at byte {start:,}; what began before and did not end and what follows is lost")


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
