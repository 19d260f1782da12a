"""Batches of the procedural world for training: the batch of a step is a function of seed, step and rank.

So a run that is resumed at a step sees exactly what an uninterrupted one would have seen, with any number of workers,
and there is no state to save.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from phenaki.data.shapes import ShapesWorld
from phenaki.errors import PhenakiError
from phenaki.grid import time_steps


@dataclass(frozen=True)
class ShapesDataConfig:
    """Clips of the procedural world.

    `lengths` and `length_shares`: frames per clip and in which share of the steps. Shorter clips are the beginnings of
    clips of the longest length, and come in larger batches, so that every step has about as many tokens. Images are
    clips of 1 frame (paper, section 2.2). `batch`: clips of the longest length in a step, over all processes.
    `continued`: share of clips that go on from an earlier scene. `objects`: 1 or 2; 0 mixes both.
    """

    size: int = 64
    batch: int = 16
    lengths: tuple[int, ...] = (11,)
    length_shares: tuple[float, ...] = (1.0,)
    objects: int = 0
    continued: float = 0.3
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        shares = self.length_shares
        if len(self.lengths) != len(shares) or min(shares, default=-1) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise PhenakiError(
                f"data.lengths {self.lengths} and data.length_shares {self.length_shares}: "
                "give one share for each length, 1 in all"
            )
        if self.batch < 1:
            raise PhenakiError(f"data.batch {self.batch} must be 1 or more")
        if self.workers < 0:
            raise PhenakiError(f"data.workers {self.workers} must be 0 or more")

    def check_size(self, image_size: tuple[int, int]) -> None:
        """Raise PhenakiError unless the clips have the height and width for which a tokenizer is built."""
        if tuple(image_size) != (self.size, self.size):
            raise PhenakiError(
                f"data.size {self.size} does not fit this tokenizer, whose image_size is {list(image_size)}: "
                "make them equal"
            )


class Batch(TypedDict):
    """video uint8 (B, T, H, W, 3), a caption for each clip, and bool (B,) which clips go on from an earlier scene."""

    video: Tensor
    captions: list[str]
    continued: Tensor


class ShapesBatches(Dataset):
    """`batches[step]` is the batch of a step, for one of `world_size` processes."""

    def __init__(self, config: ShapesDataConfig, period: int, steps: int, rank: int = 0, world_size: int = 1):
        self.config, self.steps, self.rank, self.world_size = config, steps, rank, world_size
        self.time_steps = [time_steps(frames, period) for frames in config.lengths]
        self.most = config.batch * max(self.time_steps)
        if config.batch % world_size:
            raise PhenakiError(f"data.batch {config.batch} is not a multiple of the {world_size} processes")
        self.worlds = [
            ShapesWorld(
                seed=config.seed,
                size=config.size,
                frames=max(config.lengths),
                objects=config.objects or None,
                continued=config.continued if frames > 1 else 0.0,
            )
            for frames in config.lengths
        ]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, step])
        kind = int(rng.choice(len(self.worlds), p=self.config.length_shares))
        count = self.most // self.time_steps[kind] // self.world_size
        first = step * self.most + self.rank * count
        samples = [self.worlds[kind][first + i] for i in range(count)]
        return {
            "video": torch.from_numpy(np.stack([sample.video[: self.config.lengths[kind]] for sample in samples])),
            "captions": [sample.caption for sample in samples],
            "continued": torch.tensor([sample.continued for sample in samples]),
        }


def batches(dataset: ShapesBatches, start: int) -> Iterator[Batch]:
    """The batches of the steps from `start` on, drawn ahead in worker processes."""
    workers = dataset.config.workers
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=range(start, dataset.steps),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_signals,
        )
    )


def _ignore_signals(worker: int) -> None:
    """Ctrl-C goes to the whole process group; the main process alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
