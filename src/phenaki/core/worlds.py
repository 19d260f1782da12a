"""Procedural worlds by name, as the `uri` of a data source may name them.

A world registers itself when its package is imported (`import phenaki.worlds.shapes`); this module imports none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class WorldSample(Protocol):
    """A clip uint8 (T, H, W, 3), its caption, and whether it continues an earlier scene."""

    video: np.ndarray
    caption: str
    continued: bool


class World(Protocol):
    """An endless dataset of clips of at most `frames` frames; the sample at an index is always the same.

    options: `data.sources[].options`. split: "train", or "validation" for samples that no training sees.
    """

    def __init__(
        self, options: Mapping[str, Any], *, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None: ...
    def sample(self, index: int, frames: int) -> WorldSample: ...


WORLDS: dict[str, type[World]] = {}
