"""How a model that takes keys looks after minutes of random play.

`python benchmarks/long_play.py MODEL --judge JUDGE --minutes 10 --sheet sheet.png` begins with each of the first
--prompts prompts of the model, holds a random button for four latent frames at a time, and shows one transition of
every second to a judge (`phenaki train judge`): how many pass as pictures of the judge's world, how many stand still,
and by how much neighbouring pixels differ in the first and in the last minute (less where a video blurs, more where it
becomes noise). The sheet has 32 frames of each video, evenly spaced.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np

import phenaki
from phenaki.evaluation.inverse_dynamics import InverseDynamics
from phenaki.media.convert import to_float
from phenaki.media.montage import contact_sheet
from phenaki.media.writer import write_image
from phenaki.pipeline import Phenaki, load_part

HELD = 4  # latent frames for which a button is held
STILL = 0.5  # mean difference of two frames, of 255, below which they count as equal
FRAMES, COLUMNS = 32, 16  # of a video on the sheet


def play(model: Phenaki, judge: InverseDynamics, prompt: str, seconds: int, seed: int) -> np.ndarray:
    """Play, print figures, and return one frame of each second, uint8 (seconds, H, W, 3)."""
    buttons, choice = model.components.generator.config.actions.names, random.Random(seed)
    world, held, kept, passed, still, generated = model.play(prompt, seed=seed), None, [], 0, 0, 0
    last, begin = world.step()[-1], time.perf_counter()
    while len(kept) < seconds:
        if world.latent_frames % HELD == 0:
            if held:
                world.release(held)
            held = choice.choice(buttons)
            world.press(held)
        frames = world.step()
        generated += len(frames)
        if generated >= len(kept) * model.fps:
            transition = to_float(np.stack([last, *frames])[None])
            passed += bool((judge.score(transition).real > 0).all())
            still += bool(np.abs(frames[-1].astype(float) - last).mean() < STILL)
            kept.append(frames[-1])
        last = frames[-1]
    speed, minute = generated / (time.perf_counter() - begin), min(60, seconds // 2)
    print(
        f"'{prompt}': {passed} of {seconds} pass, {still} stand still; contrast of neighbours "
        f"{contrast(kept[:minute]):.2f} in the first {minute} s, {contrast(kept[-minute:]):.2f} in the last; "
        f"{speed:.1f} frames/s",
        flush=True,
    )
    return np.stack(kept)


def contrast(frames: list[np.ndarray]) -> float:
    """Mean absolute difference of neighbouring pixels, of 255."""
    grey = np.stack(frames).mean(-1)
    return float(np.mean([np.abs(np.diff(grey, axis=axis)).mean() for axis in (1, 2)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    model, judge = phenaki.load(args.model), load_part(args.judge, "inverse_dynamics").eval()
    prompts = model.domain.prompts[: args.prompts]
    videos = [play(model, judge, prompt, round(60 * args.minutes), seed) for seed, prompt in enumerate(prompts)]
    if args.sheet:
        clips = [video[np.linspace(0, len(video) - 1, FRAMES).round().astype(int)] for video in videos]
        write_image(args.sheet, contact_sheet(clips, columns=COLUMNS, labels=list(prompts)))


if __name__ == "__main__":
    main()
