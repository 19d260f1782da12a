"""Fine-tune the tokenizer of `shapes-64` on clips longer than its window: stories of the procedural world.

    python runs/shapes_64_tokenizer.py checkpoints/shapes-64-streaming/tokenizer

goes on where it stopped. It begins with the released weights; losses and optimizer are those of the recipe
`cvivit_shapes_64`, but for a lower learning rate that falls from the start, and a smaller weight of the first frame, of
which there is but one in a long clip.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from phenaki.data.shapes import ShapesWorld
from phenaki.evaluate.pixels import psnr
from phenaki.hub import load_component, resolve, save_component
from phenaki.recipes import cvivit_shapes_64
from phenaki.tokenizer import CViViT
from phenaki.train.run import Run
from phenaki.train.tokenizer import TokenizerRecipe, TokenizerTraining
from phenaki.video import to_float

FRAMES = (1, 11, 35, 53)  # of a clip: 1, 6, 18 and 27 latent frames
FRACTIONS = (0.05, 0.3, 0.4, 0.25)  # of the steps
LATENT_FRAMES = 36  # of a batch, whatever the length of its clips
SCENES = (11, 11, 11, 8, 16)  # frames of the scenes of a story, each as often as it stands here
SEED = 15


def fine_tuning(steps: int, lr: float) -> TokenizerRecipe:
    recipe = cvivit_shapes_64()
    return replace(
        recipe,
        loss=replace(recipe.loss, first_frame_share=0.15),
        optimizer=replace(recipe.optimizer, lr=lr, warmup_steps=50, cooldown_share=1.0),
        run=replace(recipe.run, steps=steps),
    )


def batch(step: int) -> np.ndarray:
    """The clips of a step, uint8 (B, T, H, W, 3), the same in every run. Each begins anywhere in a story."""
    rng = np.random.default_rng((SEED, step))
    frames = int(rng.choice(FRAMES, p=FRACTIONS))
    count = LATENT_FRAMES // (1 + (frames - 1) // 2)
    return np.stack([clip(rng, frames, step * LATENT_FRAMES + number) for number in range(count)])


def clip(rng: np.random.Generator, frames: int, index: int) -> np.ndarray:
    """uint8 (T, H, W, 3): half of the clips begin with their story, the others within its first scene."""
    scene = int(rng.choice(SCENES))
    start = int(rng.integers(scene - 1)) if rng.random() < 0.5 else 0
    scenes = max(1, -(-(start + frames - 1) // (scene - 1)))
    story = ShapesWorld(SEED, "train", frames=scene).story(index, scenes)
    return story.video[start : start + frames]


@torch.no_grad()
def reconstruction_metrics(tokenizer: CViViT) -> dict[str, float]:
    """PSNR in dB on unseen stories, by their frames."""
    metrics = {}
    for frames, count in ((11, 16), (35, 8), (101, 2)):
        world = ShapesWorld(SEED, "test")
        video = to_float(np.stack([world.story(index, frames // 10 + 1).video[:frames] for index in range(count)]))
        error = (tokenizer.decode(tokenizer.encode(video)) - video).square()
        metrics[f"psnr_of_{frames}"] = float(np.mean(psnr(error)))
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--tokenizer", default="shapes-64", help="the model that it begins with")
    args = parser.parse_args()
    released = load_component(resolve(args.tokenizer) / "tokenizer", "tokenizer")
    recipe = replace(fine_tuning(args.steps, args.lr), tokenizer=released.config)
    with Run(args.out, recipe.run, recipe) as run:
        training = TokenizerTraining(recipe, run)
        for network in (training.tokenizer, training.ema.module):
            network.load_state_dict(released.state_dict())
        run.restore(training.parts)
        clips = map(batch, range(run.step, args.steps))
        for step in run.steps(training.parts):
            run.log(**training.update(to_float(next(clips)), step))
            if run.completes(recipe.run.picture_every):
                averaged = training.ema.module
                run.record(reconstruction_metrics(averaged))
                save_component(averaged, args.out / "tokenizer", "cvivit", averaged.config)


if __name__ == "__main__":
    main()
