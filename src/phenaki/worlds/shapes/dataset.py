"""The world of shapes as a source of training data (`phenaki.core.worlds`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phenaki.core.actions import ActionSpec
from phenaki.core.config import bounded, configclass, from_dict
from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes.recording import KEYS, Recording
from phenaki.worlds.shapes.scene import REFERENCE_FRAMES
from phenaki.worlds.shapes.world import ShapesSample, ShapesWorld


@configclass
class ShapesOptions:
    """objects: 1 or 2 in every scene, 0 for both. continued: fraction of clips that continue an earlier scene.

    recordings: clips of any odd number of frames, in which captions switch. control: fraction of their scenes in which
    arrow keys steer an object.
    """

    objects: int = 0
    continued: float = bounded(0.3, at_least=0, at_most=1)
    recordings: bool = False
    control: float = bounded(0.0, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        if self.control and not self.recordings:
            raise PhenakiError(f"control={self.control} is for recordings: set recordings=true")


class ShapesDataset:
    """Clips of at most `frames` frames. A shorter clip is the beginning of a full one, an image has no motion."""

    def __init__(
        self, options: Mapping[str, Any], *, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None:
        selected = from_dict(ShapesOptions, options, "the options of 'shapes'")

        def world(continued: float, frames: int = frames) -> ShapesWorld:
            world_split = "train" if split == "train" else "test"
            return ShapesWorld(seed, world_split, size, frames, selected.objects or None, continued)

        self.options = selected
        self.actions = ActionSpec(KEYS, ("button",) * len(KEYS)) if selected.control else None
        self.clips, self.images = world(selected.continued if frames > 1 else 0.0), world(0.0)
        self.recordings = world(0.0, REFERENCE_FRAMES)  # their scenes are as quick as those of clips

    def sample(self, index: int, frames: int) -> ShapesSample | Recording:
        if self.options.recordings and frames > 1:
            recording = self.recordings.recording(index, frames, self.options.control)
            return recording if self.actions else replace(recording, actions=None)
        sample = (self.clips if frames > 1 else self.images)[index]
        return replace(sample, video=sample.video[:frames])
