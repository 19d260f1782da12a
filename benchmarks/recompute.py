"""Whether a new prompt should recompute the window of a causal model (`rollout.recompute` in model.json).

`python benchmarks/recompute.py MODEL --count 500` plays videos whose prompt changes at a random moment, as
`phenaki evaluate --suite live` does, and stories of three scenes, with the option off and on: how many new prompts are
satisfied within 2 seconds, and how many scenes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

import phenaki
from phenaki.evaluation.generate import score_videos
from phenaki.evaluation.live import new_prompts
from phenaki.worlds.shapes.evaluation import ShapesEval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = phenaki.load(args.model)
    sampling = model.sampling
    for recompute in (False, True):
        model.sampling = replace(sampling, rollout=replace(sampling.rollout, recompute=recompute))
        world = ShapesEval(tuple(model.tokenizer.config.image_size))
        good = new_prompts(model, world, args.count, np.random.default_rng(args.seed), lambda done: None)
        reports = score_videos(model, world.stories(args.count, 3), world.check_story, args.seed, lambda done: None)
        scenes = [scene.fulfilled for report in reports for scene in report.scenes]
        print(
            f"recompute {recompute}: {100 * good / args.count:.1f} % of {args.count} new prompts, "
            f"{100 * np.mean(scenes):.1f} % of {len(scenes)} scenes",
            flush=True,
        )


if __name__ == "__main__":
    main()
