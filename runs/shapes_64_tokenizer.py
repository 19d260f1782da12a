"""Fine-tune the tokenizer of `shapes-64` for videos of any length, on stories of the procedural world.

    python runs/shapes_64_tokenizer.py checkpoints/shapes-64-streaming

It resumes where it stopped. The recipe is `cvivit_shapes_64_streaming` with a lower learning rate that falls from the
start. runs/weights/shapes-64-streaming was trained so, on two thirds of the batch (the script of commit 4d8ba47).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phenaki
from phenaki.core.components import save_component
from phenaki.core.worlds import WORLDS
from phenaki.data.config import SourceConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.data.loader import Batches
from phenaki.data.sources import Sample
from phenaki.training.previews import evaluate_tokenizer
from phenaki.training.recipes import cvivit_shapes_64_streaming
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerTrainer
from phenaki.training.trainer import Networks
from phenaki.worlds.shapes import ShapesWorld

SCENE_FRAMES = (11, 11, 11, 8, 16)  # of a story, drawn uniformly


class Stories:
    """Clips of stories: half of them start with their story, the others anywhere in its first scene."""

    actions = None

    def __init__(
        self, options: Mapping[str, Any], *, seed: int, split: str, size: tuple[int, int], frames: int
    ) -> None:
        self.seed, self.split, self.size = seed, "train" if split == "train" else "test", size

    def sample(self, index: int, frames: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        scene = int(rng.choice(SCENE_FRAMES))
        start = int(rng.integers(scene - 1)) if rng.random() < 0.5 else 0
        scenes = max(1, -(-(start + frames - 1) // (scene - 1)))
        story = ShapesWorld(self.seed, self.split, self.size, scene).story(index, scenes)
        return Sample(story.video[start : start + frames], "")


WORLDS["stories"] = Stories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--model", default="shapes-64", help="whose tokenizer to start from")
    args = parser.parse_args()

    start = phenaki.load(args.model).tokenizer
    recipe = cvivit_shapes_64_streaming()
    recipe = replace(
        recipe,
        tokenizer=start.config,
        data=replace(recipe.data, sources=(SourceConfig("stories"),)),
        optimizer=replace(recipe.optimizer, lr=args.lr, warmup_steps=50, cooldown_fraction=1.0),
        run=replace(recipe.run, steps=args.steps),
    )
    clips = eval_samples(recipe.data, captions=False)
    with Run(args.out, recipe.run, recipe) as run:
        trainer = TokenizerTrainer(recipe, run)
        for network in (trainer.tokenizer, trainer.averages["tokenizer"].module):
            network.load_state_dict(start.state_dict())

        def preview(averages: Networks) -> None:
            metrics, reconstructions = evaluate_tokenizer(averages["tokenizer"], clips)
            run.record(metrics)
            run.show("reconstruction", reconstructions, start.config.fps)
            save_component(averages["tokenizer"], args.out / "tokenizer", torch.float16)

        trainer.train(Batches(recipe.data, start.patch[0], captions=False), preview)


if __name__ == "__main__":
    main()
