"""Test clips, prompts and stories of the procedural world, and its checker, as `phenaki.evaluation` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from phenaki.worlds.shapes.checker import Report, StoryReport, check, check_story, obeyed
from phenaki.worlds.shapes.recording import KEYS
from phenaki.worlds.shapes.world import ShapesWorld

EVAL_SEED = 7  # neither that of a training run's previews nor that of benchmarks/samplers.py: tune on other clips


class EvalClip(NamedTuple):
    """video: uint8 (T, H, W, 3). kind: "one_object" or "two_objects"."""

    video: np.ndarray
    caption: str
    kind: str


@dataclass(frozen=True)
class ShapesEval:
    """Clips of `frames` frames of `size` (height, width) that no training sees.

    The colour-shape pairs of "held_out_pairs" are absent from the training split altogether.
    """

    size: tuple[int, int]
    frames: int = 11
    seed: int = EVAL_SEED

    keys: ClassVar[tuple[str, ...]] = KEYS
    kinds: ClassVar[dict[str, dict[str, Any]]] = {
        "one_object": {"split": "test", "objects": 1},
        "held_out_pairs": {"split": "held_out", "objects": 1},
        "two_objects": {"split": "test", "objects": 2},
    }

    def world(self, kind: str = "") -> ShapesWorld:
        """The world of one kind of clips, of all test clips without."""
        return ShapesWorld(self.seed, size=self.size, frames=self.frames, **self.kinds.get(kind, {"split": "test"}))

    def clips(self, count: int) -> Iterator[EvalClip]:
        world = self.world()
        for index in range(count):
            sample = world[index]
            yield EvalClip(sample.video, sample.caption, ("one_object", "two_objects")[len(sample.scene.objects) - 1])

    def prompts(self, kind: str, count: int) -> list[str]:
        world = self.world(kind)
        return [world.caption(index) for index in range(count)]

    def stories(self, count: int, scenes: int) -> list[tuple[str, ...]]:
        """Captions of stories on one object."""
        world = self.world("one_object")
        return [world.story(index, scenes).captions for index in range(count)]

    def controlled(self, count: int) -> list[str]:
        """Captions of one object that obeys the arrow keys."""
        world = self.world("one_object")
        return [world.controlled_caption(index) for index in range(count)]

    def obeyed(self, video: np.ndarray, key: str) -> bool | None:
        """Whether the object in a short video (T, H, W, 3) moves as an arrow key says; None: the border is near."""
        return obeyed(video, key)

    def protocol(self, kind: str = "") -> dict[str, Any]:
        """The settings of `world(kind)`, for the protocol of a measurement."""
        world = self.world(kind)
        return {
            "world": "shapes",
            "world_seed": world.seed,
            "split": world.split,
            "objects": world.objects,
            "frames": world.frames,
            "fps": world.fps,
            "size": [world.height, world.width],
        }

    def check(self, video: np.ndarray, caption: str) -> Report:
        return check(video, caption)

    def check_story(self, video: np.ndarray, captions: Sequence[str]) -> StoryReport:
        return check_story(video, captions, self.frames)
