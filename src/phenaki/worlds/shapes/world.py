"""The world of shapes as an endless dataset: sample i of a seed and split is the same in any process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phenaki.core.errors import PhenakiError
from phenaki.worlds.shapes.captions import Claims, caption, parse_caption
from phenaki.worlds.shapes.recording import Recording, record
from phenaki.worlds.shapes.render import render
from phenaki.worlds.shapes.scene import SPLITS, Scene, next_scene, sample_scene

_SCENE, _STORY, _CAPTION, _RECORDING = 0, 1, 2, 3  # purposes of random streams


@dataclass(frozen=True)
class ShapesSample:
    """A clip uint8 (T, H, W, 3), its caption, and the ground truth. `continued`: it continues an earlier scene."""

    video: np.ndarray
    caption: str
    scene: Scene
    continued: bool
    actions: np.ndarray | None = None
    timed_captions: tuple[tuple[int, str], ...] = ()

    @property
    def claims(self) -> Claims:
        """What the caption claims."""
        return parse_caption(self.caption)


@dataclass(frozen=True)
class Story:
    """Consecutive scenes, each starting with the last frame of the one before: 1 + scenes * (frames - 1) frames."""

    scenes: tuple[Scene, ...]
    captions: tuple[str, ...]
    video: np.ndarray


class ShapesWorld:
    """Captioned clips of moving shapes at 8 frames per second, rendered on access: `world[i]` for any i from 0.

    `split`: "train" never shows a colour-shape pair of HELD_OUT_PAIRS; "test" has other samples of the same pairs; in
    "held_out" every scene has a held-out pair. `size`: side, or (height, width), in px, multiples of 16 up to 256.
    `frames`: 1 gives images, whose captions name no action. `objects`: 1, 2, or None for 1 in 60 % and 2 in 40 %.
    `continued`: fraction of samples that continue one or two earlier scenes, with matching captions.
    """

    fps = 8

    def __init__(
        self,
        seed: int = 0,
        split: str = "train",
        size: int | tuple[int, int] = 64,
        frames: int = 11,
        objects: int | None = None,
        continued: float = 0.0,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if split not in SPLITS:
            raise PhenakiError(f"split={split!r} is not one of {', '.join(map(repr, SPLITS))}")
        if any(side % 16 or not 16 <= side <= 256 for side in (height, width)):
            raise PhenakiError(f"size={height}x{width}: each side must be a multiple of 16 from 16 to 256")
        if frames < 1:
            raise PhenakiError(f"frames={frames}: a clip has at least 1 frame")
        if objects not in (None, 1, 2):
            raise PhenakiError(f"objects={objects!r}: a scene has 1 or 2 objects, or None for a mixture")
        if not 0 <= continued <= 1:
            raise PhenakiError(f"continued={continued} is a fraction of the samples, from 0 to 1")
        if continued and frames == 1:
            raise PhenakiError("continued > 0 needs clips of at least 2 frames: an image continues nothing")
        if seed < 0:
            raise PhenakiError(f"seed={seed}: seeds are 0 or greater")
        self.seed, self.split, self.height, self.width = seed, split, height, width
        self.frames, self.objects, self.continued = frames, objects, continued

    def _rng(self, index: int, *purpose: int) -> np.random.Generator:
        if index < 0:
            raise PhenakiError(f"sample {index}: samples are numbered from 0")
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index, *purpose])

    def _draw(self, rng: np.random.Generator, scenes: int) -> list[Scene]:
        steady = self.split == "held_out" and scenes > 1
        row = [
            sample_scene(
                rng,
                split=self.split,
                frames=self.frames,
                height=self.height,
                width=self.width,
                objects=self.objects,
                steady_pairs=steady,
            )
        ]
        while len(row) < scenes:
            row.append(next_scene(row[-1], rng, steady_pairs=steady))
        return row

    def _scene(self, index: int) -> tuple[Scene, bool]:
        rng = self._rng(index, _SCENE)
        before = int(rng.integers(1, 3)) if rng.random() < self.continued else 0
        return self._draw(rng, before + 1)[-1], before > 0

    def scene(self, index: int) -> Scene:
        """The ground truth of sample `index`, not rendered."""
        return self._scene(index)[0]

    def caption(self, index: int, variant: int = 0) -> str:
        """A caption of sample `index`; each `variant` from 0 is worded differently."""
        scene, continued = self._scene(index)
        return caption(scene, self._rng(index, _CAPTION, variant), continued)

    def __getitem__(self, index: int) -> ShapesSample:
        scene, continued = self._scene(index)
        return ShapesSample(render(scene), caption(scene, self._rng(index, _CAPTION, 0), continued), scene, continued)

    def story(self, index: int, scenes: int = 3) -> Story:
        """Story `index`: a scene with a full caption and `scenes - 1` that continue it."""
        if scenes < 1 or (scenes > 1 and self.frames == 1):
            raise PhenakiError(f"scenes={scenes}, frames={self.frames}: a story has scenes of 2 frames or more")
        row = self._draw(self._rng(index, _STORY), scenes)
        words = self._rng(index, _STORY, _CAPTION)
        captions = tuple(caption(scene, words, continuing=k > 0, full=k == 0) for k, scene in enumerate(row))
        clips = [render(scene)[min(k, 1) :] for k, scene in enumerate(row)]
        return Story(tuple(row), captions, np.concatenate(clips))

    def recording(self, index: int, frames: int, control: float = 0.3) -> Recording:
        """Recording `index`, of an odd number of frames; `control`: probability of a scene steered by keys."""
        rng, steady = self._rng(index, _RECORDING), self.split == "held_out"
        return record(self._draw(rng, 1)[0], frames, rng, control, steady)

    def controlled_caption(self, index: int) -> str:
        """The caption of recording `index` if it began with keys that steer an object."""
        return record(self._draw(self._rng(index, _RECORDING), 1)[0], 1, self._rng(index, _CAPTION, 0), 1.0).caption
