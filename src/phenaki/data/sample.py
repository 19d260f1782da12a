"""What travels through the pipeline: a sample as it lies in its source, encoded, and what is wrong with a bad one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from phenaki.core.errors import PhenakiError

_JUDGED_AFTER = 100  # samples drawn before the share of bad ones is judged


class EncodedSample(NamedTuple):
    """A sample as it lies in a folder or shard, nothing of it decoded yet.

    key: its name for people, such as "shard-000003.tar/clip_0012" or a path inside its folder; unique in its source.
    media: the bytes of the file, or the path of a local one, which is not read before it is decoded.
    ending: of the media file, in lower case with its dot, such as ".mp4".
    captions: those to draw one of at each use; may be empty.
    label: a class name to be put into caption templates; "" where there is none.
    metadata: what the source tells about it (fps, frames, size, duration, source, hash).
    """

    key: str
    media: bytes | Path
    ending: str
    captions: tuple[str, ...] = ()
    label: str = ""
    metadata: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """For people: the key and, where the metadata tell it, the file that the sample was made of."""
        source = self.metadata.get("source")
        return f"{self.key} ({source})" if isinstance(source, str) else self.key


def check_bad_fraction(bad: int, drawn: int, most: float, option: str, last: str, final: bool = False) -> None:
    """Raise PhenakiError where more than the share `most`, which `option` sets, of the samples drawn cannot be used.

    The share of a few says little, so fewer than 100 are judged only where no more will come (`final`).
    """
    if bad > most * drawn and (final or drawn >= _JUDGED_AFTER):
        enough = min(1.0, math.ceil(20 * bad / drawn) / 10)  # about twice the share that was met
        raise PhenakiError(
            f"{bad} of {drawn} samples drawn cannot be used, more than {option} {most:g}; the last one: "
            f"{last.rstrip('.')}. Where the others are enough, the same command goes on with {option}={enough:g}"
        )
