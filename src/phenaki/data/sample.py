"""A sample as its source stores it, before decoding, and the limit on unusable samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from phenaki.core.errors import PhenakiError
from phenaki.data.captions import TimedCaption

_MIN_SAMPLES = 100  # drawn before the fraction of bad ones is checked


class EncodedSample(NamedTuple):
    """A sample of a folder or shard, nothing of it decoded yet.

    key: for error messages, such as "shard-000003.tar/clip_0012" or a path inside its folder; unique in its source.
    media: the bytes of the file, or the path of a local one, which is read when it is decoded; in packing also the URL
        of one in a bucket (`bucket.Remote`).
    suffix: of the media file, lower case with the dot, such as ".mp4".
    captions: one is drawn at each use; may be empty.
    timed_captions: instead of those, captions that change, with the second at which each begins.
    actions: the file of its action table, as `media`; None if there is none, or none is asked for.
    span: the seconds of the file that it is, counted from its first frame; None: all.
    label: a class name for caption templates; "" if there is none.
    metadata: what the source says about it (fps, frames, size, duration, source, hash).
    """

    key: str
    media: bytes | Path
    suffix: str
    captions: tuple[str, ...] = ()
    label: str = ""
    metadata: dict[str, Any] = {}
    timed_captions: tuple[TimedCaption, ...] = ()
    actions: bytes | Path | None = None
    span: tuple[float, float] | None = None

    @property
    def has_words(self) -> bool:
        """Whether it has a caption or a label."""
        return bool(self.captions or self.timed_captions or self.label)

    @property
    def name(self) -> str:
        """For error messages: the key, and the original file if the metadata name it."""
        source = self.metadata.get("source")
        return f"{self.key} ({source})" if isinstance(source, str) else self.key


def check_bad_fraction(bad: int, samples: int, limit: float, option: str, last: str, final: bool = False) -> None:
    """Raise PhenakiError if more than the fraction `limit`, set by `option`, of the samples drawn is unusable.

    Fewer than 100 samples say little, so they are only checked if no more will come (`final`).
    """
    if bad > limit * samples and (final or samples >= _MIN_SAMPLES):
        enough = min(1.0, math.ceil(20 * bad / samples) / 10)  # about twice the fraction seen so far
        raise PhenakiError(
            f"{bad} of {samples} samples are unusable, more than {option} {limit:g}; the last one: {last.rstrip('.')}. "
            f"If the others are enough, run the same command with {option}={enough:g}"
        )
