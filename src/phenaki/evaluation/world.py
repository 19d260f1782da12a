"""What the evaluation needs of a procedural world: unseen clips and prompts, and a checker of captions in pixels.

The evaluation receives a world, such as `phenaki.worlds.shapes.evaluation.ShapesEval`, and imports none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np


class Report(Protocol):
    """`findings`: one per claim of the caption, with `kind`, the value `claimed`, and whether it is `fulfilled`."""

    findings: Sequence[Any]
    fulfilled: bool


class StoryReport(Protocol):
    """`fulfilled`: all scenes are, with the same objects and background."""

    scenes: Sequence[Report]
    same_objects: bool
    same_background: bool
    fulfilled: bool


class World(Protocol):
    """Always the same clips and prompts, for frames of one `size` (height, width) and clips of one length.

    `kinds`: of prompts by name, each with what its protocol states, such as the split. `clips` have a `video` uint8
    (T, H, W, 3), a `caption` and a `kind`; `stories` are the captions of their scenes. `controlled`: captions of an
    object that obeys `keys` (none in a world without), and `obeyed`: whether it moves in a video as one of them says,
    None if that cannot be told. `protocol` describes one kind of clips, or all test clips.
    """

    keys: Sequence[str]
    kinds: Mapping[str, Mapping[str, Any]]

    def __init__(self, size: tuple[int, int], frames: int) -> None: ...
    def clips(self, count: int) -> Iterable[Any]: ...
    def prompts(self, kind: str, count: int) -> Sequence[str]: ...
    def stories(self, count: int, scenes: int) -> Sequence[Sequence[str]]: ...
    def controlled(self, count: int) -> Sequence[str]: ...
    def obeyed(self, video: np.ndarray, key: str) -> bool | None: ...
    def protocol(self, kind: str = "") -> dict[str, Any]: ...
    def check(self, video: np.ndarray, caption: str) -> Report: ...
    def check_story(self, video: np.ndarray, captions: Sequence[str]) -> StoryReport: ...
