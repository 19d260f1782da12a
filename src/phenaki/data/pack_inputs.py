"""The files that are packed: of all source folders, in one mixed order, with duplicates found."""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import astuple
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.reading import open_regular
from phenaki.data.actions import common_spec
from phenaki.data.bucket import Bucket
from phenaki.data.captions import CaptionTable
from phenaki.data.folder import Folder
from phenaki.data.layouts import layout_table
from phenaki.data.lerobot import LeRobot
from phenaki.data.pack_config import PackConfig
from phenaki.data.sample import EncodedSample
from phenaki.data.storage import is_remote
from phenaki.data.table_rows import USUAL_COLUMNS


class PackInputs:
    """The files of all folders, ordered by a hash of their paths inside the folders.

    duplicates: index of a file -> index of the file with the same bytes that is packed, the one with the best caption.
    indices: those of all other files.
    actions: of all folders; None if they have none.
    """

    def __init__(self, config: PackConfig) -> None:
        self.table = CaptionTable(config.table, config.columns) if config.table else None
        self.folders = [self._open(root, config) for root in config.sources]
        self.actions = common_spec({str(folder.root): folder.actions for folder in self.folders})
        if bare := [folder.root for folder in self.folders if self.actions and not folder.actions]:
            raise PhenakiError(
                f"'{bare[0]}' has no actions, and another source has {self.actions}: pack them into folders of their "
                "own; a training takes both"
            )
        if config.columns != USUAL_COLUMNS and not any(folder.has_table for folder in self.folders):
            names = ", ".join(f"'{name}'" for name in astuple(config.columns) if name)
            raise PhenakiError(
                f"There is no table with the column {names}: name one (--table), or put captions.csv at the top of a "
                "source."
            )
        self.ends = list(accumulate(map(len, self.folders)))
        hashes = [_hash(folder.key(index)) for folder in self.folders for index in range(len(folder))]
        self.order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        if self.table:
            self.table.check_claimed()
        self.duplicates = self._duplicates()
        self.indices = [number for number in range(len(self)) if number not in self.duplicates]

    def _open(self, root: Path | str, config: PackConfig) -> Folder | LeRobot | Bucket:
        if is_remote(str(root)):
            return Bucket(str(root), self.table)
        if config.layout == "lerobot":
            return LeRobot(root, config.camera, config.states)
        table = self.table or layout_table(config.layout, root)
        ucf101 = config.layout == "ucf101"
        return Folder(
            root, table, config.label_from_folder or ucf101, config.columns, actions=True, split_labels=ucf101
        )

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def roots(self) -> list[Path]:
        """The folders on this machine, as absolute paths."""
        return [folder.root.absolute() for folder in self.folders if not isinstance(folder, Bucket)]

    def _find(self, number: int) -> tuple[Folder | LeRobot | Bucket, int]:
        at = int(self.order[number])
        folder = bisect.bisect_right(self.ends, at)
        return self.folders[folder], at - (self.ends[folder] - len(self.folders[folder]))

    def __getitem__(self, number: int) -> EncodedSample | BadSample:
        folder, index = self._find(number)
        return folder[index]

    def key(self, number: int) -> str:
        folder, index = self._find(number)
        return folder.key(index)

    def _path(self, number: int) -> Path:
        folder, index = self._find(number)
        return folder.path(index)

    def name(self, number: int) -> str:
        folder, index = self._find(number)
        key = folder.key(index)
        return key if len(self.folders) == 1 else f"{folder.root}/{key}"

    def fingerprint(self) -> str:
        """Of the names, sizes and times of all files and their action tables, of the actions and the duplicates."""
        digest = hashlib.sha256(str(self.actions or "").encode())
        for number in range(len(self)):
            folder, index = self._find(number)
            state = " ".join(map(_state, folder.files(index)))
            digest.update(f"{self.name(number)}\0{state}\0{self.duplicates.get(number, '')}\0".encode())
        return digest.hexdigest()

    def _duplicates(self) -> dict[int, int]:
        sizes: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self)):
            if self._find(number)[0].joins_samples:
                continue
            with suppress(OSError):  # an unreadable file is refused when it is packed
                sizes[self._path(number).stat().st_size].append(number)
        same: dict[str, list[int]] = defaultdict(list)
        for number in chain.from_iterable(indices for indices in sizes.values() if len(indices) > 1):
            with suppress(OSError, BadSample):
                same[file_digest(self._readable(number).media)].append(number)
        duplicates = {}
        for indices in same.values():
            best = max(indices, key=self._described)
            duplicates |= {number: best for number in indices if number != best}
        return duplicates

    def _readable(self, number: int) -> EncodedSample:
        item = self[number]
        if isinstance(item, BadSample):
            raise item
        return item

    def _described(self, number: int) -> tuple[bool, bool]:
        item = self._readable(number)
        return bool(item.captions or item.timed_captions), bool(item.label)

    def unclaimed(self) -> list[str]:
        """Names in tables without a file."""
        unclaimed = self.table.unclaimed() if self.table else []
        return unclaimed + [name for folder in self.folders for name in folder.unclaimed]

    def other_endings(self) -> dict[str, int]:
        """How many files have endings of neither media nor captions."""
        return dict(sum((folder.other_endings for folder in self.folders), Counter()))


def _state(path: Path) -> str:
    try:
        stat = path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"
    except OSError as error:
        return f"error {error.errno}"


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


def file_digest(path: Path) -> str:
    """Of a file, or of the frames in a folder."""
    if path.is_dir():
        return hashlib.sha256("".join(map(file_digest, sorted(path.iterdir()))).encode()).hexdigest()
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
