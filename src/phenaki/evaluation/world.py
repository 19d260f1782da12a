"""What the evaluation needs from a procedural world: unseen captioned clips, and a checker of claims in pixels.

`phenaki.worlds.shapes.evaluation: ShapesEval` is one. The evaluation receives it and imports none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np


class Finding(Protocol):
    """One claim of a caption: of which kind, the value claimed, and whether the video shows it."""

    kind: str
    claimed: str
    fulfilled: bool


class Report(Protocol):
    """`fulfilled`: the video shows all claims of its caption."""

    findings: Sequence[Finding]
    fulfilled: bool


class StoryReport(Protocol):
    """`fulfilled`: all scenes are, and objects and background are the same in all of them."""

    scenes: Sequence[Report]
    same_objects: bool
    same_background: bool
    fulfilled: bool


class WorldClip(Protocol):
    """video: uint8 (T, H, W, 3). kind: of `World.kinds`."""

    video: np.ndarray
    caption: str
    kind: str


class World(Protocol):
    """Always the same test clips, prompts and stories, for frames of one size and clips of one length.

    kinds: of prompts by name, each with what its protocol states, such as the split.
    """

    kinds: Mapping[str, Mapping[str, Any]]

    def clips(self, count: int) -> Iterable[WorldClip]: ...

    def prompts(self, kind: str, count: int) -> Sequence[str]: ...

    def stories(self, count: int, scenes: int) -> Sequence[Sequence[str]]: ...

    def protocol(self, kind: str = "") -> dict[str, Any]:
        """The settings of the clips of one kind, of all test clips without."""

    def check(self, video: np.ndarray, caption: str) -> Report: ...

    def check_story(self, video: np.ndarray, captions: Sequence[str]) -> StoryReport: ...


class WorldFactory(Protocol):
    def __call__(self, size: tuple[int, int], frames: int) -> World: ...
