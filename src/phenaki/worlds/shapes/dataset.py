"""The world of shapes as a source of training data (`phenaki.core.worlds`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phenaki.core.actions import ActionSpec
from phenaki.core.config import bounded, configclass, from_dict
from phenaki.worlds.shapes.world import ShapesSample, ShapesWorld


@configclass
class ShapesOptions:
    """objects: 1 or 2 in every scene, 0 for both. continued: fraction of clips that continue an earlier scene."""

    objects: int = 0
    continued: float = bounded(0.3, at_least=0, at_most=1)


class ShapesDataset:
    """Clips of at most `frames` frames. A shorter clip is the beginning of a full one, an image has no motion."""

    actions: ActionSpec | None = None

    def __init__(
        self, options: Mapping[str, Any], *, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None:
        selected = from_dict(ShapesOptions, options, "the options of 'shapes'")

        def world(continued: float) -> ShapesWorld:
            world_split = "train" if split == "train" else "test"
            return ShapesWorld(seed, world_split, size, frames, selected.objects or None, continued)

        self.clips, self.images = world(selected.continued if frames > 1 else 0.0), world(0.0)

    def sample(self, index: int, frames: int) -> ShapesSample:
        sample = (self.clips if frames > 1 else self.images)[index]
        return replace(sample, video=sample.video[:frames])
