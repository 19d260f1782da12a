"""Videos and images in a bucket, as samples to pack: those that a table names, as nothing is listed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.captions import CaptionTable, clean_captions, clean_timed_captions
from phenaki.data.folder import MEDIA
from phenaki.data.sample import EncodedSample
from phenaki.data.storage import BLOCK, join, open_from


class Bucket:
    """The files under a URL such as s3://bucket/videos whose names, relative to it, are in a table, sorted.

    As `Folder`, but that files are opened only where they are cut: duplicates are not looked for, and a file that is
    missing is a bad sample then. Raises PhenakiError for a table without names of media.
    """

    actions = None
    has_table = joins_samples = True

    def __init__(self, root: str, table: CaptionTable | None) -> None:
        if table is None:
            raise PhenakiError(f"'{root}' is not listed: name its files in a table (--table), with their captions")
        self.root, self._table, self.unclaimed = root, table, list[str]()
        names = sorted(filter(None, table.names()))
        self._names = [name for name in names if os.path.splitext(name)[1].lower() in MEDIA]
        if not self._names:
            raise PhenakiError(
                f"The table '{table.path}' names no videos or pictures with their endings, as they are under '{root}'"
            )
        self.other_endings = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
        for ending in MEDIA:
            del self.other_endings[ending]
        for name in self._names:
            table.claim_name(name)

    def __len__(self) -> int:
        return len(self._names)

    def files(self, index: int) -> list[Path]:
        """None on this machine."""
        return []

    def key(self, index: int) -> str:
        return self._names[index]

    def __getitem__(self, index: int) -> EncodedSample | BadSample:
        name = self._names[index]
        words = self._table.claim_name(name)
        suffix = os.path.splitext(name)[1].lower()
        try:
            timed = clean_timed_captions(words.captions) if words.timed else ()
            captions = () if words.timed else clean_captions(words.captions)
        except BadSample as error:
            return BadSample(f"{name}: {error}")
        return EncodedSample(name, Remote(join(self.root, name)), suffix, captions, words.label, timed_captions=timed)


class Remote(str):
    """The URL of a sample's media."""


@contextmanager
def downloaded(item: EncodedSample) -> Iterator[EncodedSample]:
    """The sample with its media on this machine while the block runs. Raises PhenakiError if it cannot be read."""
    if not isinstance(item.media, Remote):
        yield item
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, f"media{item.suffix}")
        with open_from(item.media) as source, open(path, "wb") as target:
            while block := source.read(BLOCK):
                target.write(block)
        yield item._replace(media=path)
