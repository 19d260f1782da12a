"""Frames at another rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat

from phenaki.core.errors import BadSample
from phenaki.media.convert import Frames
from phenaki.media.view import TOLERANCE, Timed, check_frames

_MAX_DURATION = 60.0  # seconds of one frame; longer means that the time stamps jump


def resample(timed: Iterable[Timed], fps: float) -> Iterator[Frames]:
    """The frame visible every 1 / fps seconds, uint8 (H, W, 3), from the first frame until the end of the last.

    Raises BadSample for time stamps that jump, and for a video that is too long.
    """
    start, count = None, 0
    for (begin, decode), (end, _) in pairwise(timed):
        if not begin <= end <= begin + _MAX_DURATION:
            raise BadSample(f"its time stamps jump from {begin:.2f} to {end:.2f} s")
        start = begin if start is None else start
        check_frames(end - start, fps)
        new = math.ceil((end - start - TOLERANCE) * fps) - count
        if new > 0:
            yield from repeat(decode(), new)
            count += new
