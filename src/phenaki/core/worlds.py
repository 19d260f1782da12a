"""Procedural worlds by name, as the `uri` of a data source may name them.

A world registers itself when its package is imported (`import phenaki.worlds.shapes`); this module imports none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from phenaki.core.actions import ActionSpec


class WorldSample(Protocol):
    """A clip uint8 (T, H, W, 3), its caption, and whether it continues an earlier scene.

    actions: float32 (T, A), row 0 zero, in a world that has them. timed_captions: (frame, caption) of each caption,
    the first at frame 0, if they change within the clip; else ().
    """

    video: np.ndarray
    caption: str
    continued: bool
    actions: np.ndarray | None
    timed_captions: tuple[tuple[int, str], ...]


class World(Protocol):
    """An endless dataset of clips of at most `frames` frames; the sample at an index is always the same.

    options: `data.sources[].options`. split: "train", or "validation" for samples that no training sees. actions: what
    the columns of its samples' actions are; None for a world without.
    """

    actions: ActionSpec | None

    def __init__(
        self, options: Mapping[str, Any], *, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None: ...
    def sample(self, index: int, frames: int) -> WorldSample: ...


WORLDS: dict[str, type[World]] = {}
