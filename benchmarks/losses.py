"""What each loss adds to a trained tokenizer: the released one is trained further with each of them, and evaluated.

`python benchmarks/losses.py --steps 1500 --out losses.json` starts each time from the weights of shapes-64, and trains
as its recipe says (a tenth of the steps to warm up, half to cool down, at half its rate, since it is trained already)
but for the loss. It prints PSNR and SSIM of unseen clips, and the share of those with one object in which the checker
still sees all that the caption claims. What is done already in `--out` is not done again.

recipe         L2 and token consistency, as the recipe says: the control, since more steps alone may help
l2             L2 alone
l1             the recipe's and L1, at a weight at which L1 is as large as L2 here
adversarial    the recipe's and a small discriminator of two frames per clip, at the paper's 0.1, scaled to the gradient
               of the other losses
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import phenaki
from phenaki.data.loader import Batches
from phenaki.evaluation.clips import Clips
from phenaki.evaluation.reconstruction import reconstruction
from phenaki.media.convert import to_float
from phenaki.tokenizers import Tokenizer
from phenaki.tokenizers.discriminator import DiscriminatorConfig
from phenaki.training.recipes import cvivit_shapes_64
from phenaki.training.run import Run
from phenaki.training.tokenizer import TokenizerRecipe, TokenizerTrainer
from phenaki.worlds.shapes.evaluation import ShapesEval

ARMS = {
    "recipe": {},
    "l2": {"token_consistency": 0.0},
    "l1": {"l1": 0.05},
    "adversarial": {"adversarial": 0.1, "frames": 2},
}


def recipe_of(arm: str, steps: int) -> TokenizerRecipe:
    recipe = cvivit_shapes_64()
    optimizer = replace(recipe.optimizer, lr=recipe.optimizer.lr / 2, warmup_steps=steps // 10)
    run = replace(recipe.run, steps=steps, checkpoint_every=10 * steps, trackers=())
    discriminator = DiscriminatorConfig(width=16, adaptive=True)
    loss = replace(recipe.loss, **ARMS[arm])
    return replace(recipe, loss=loss, discriminator=discriminator, optimizer=optimizer, run=run)


def trained(arm: str, steps: int) -> tuple[Tokenizer, float]:
    """The tokenizer after so many steps more, and the seconds of their updates."""
    recipe, seconds = recipe_of(arm, steps), 0.0
    with tempfile.TemporaryDirectory() as folder, Run(folder, recipe.run, recipe) as run:
        training = TokenizerTrainer(recipe, run)
        released = phenaki.load("shapes-64").tokenizer.state_dict()
        for tokenizer in (training.tokenizer, training.averages["tokenizer"].module):
            tokenizer.load_state_dict(released)
        data = Batches(recipe.data, training.tokenizer.patch[0], captions=False)
        for step in run.steps(training.state):
            video = to_float(next(data)["video"])
            began = time.perf_counter()
            figures = training.update(video, step)
            seconds += time.perf_counter() - began
            if (step + 1) % 100 == 0:
                print(f"{arm} {step + 1}/{steps} psnr {figures['psnr']:.2f} {seconds:.0f} s", flush=True)
        if run.step < steps:
            raise SystemExit("stopped")
        return training.averages["tokenizer"].module.eval(), seconds


def measure(tokenizer: Tokenizer, clips: int) -> dict[str, float]:
    found = reconstruction(
        tokenizer, Clips(tokenizer, ShapesEval(tuple(tokenizer.config.image_size)), clips), lambda count: None
    )
    one = found["fulfilled"]["one_object"]["rate"]
    return {"psnr": found["psnr"], "ssim": found["ssim"], "one_object": one, "perplexity": found["perplexity"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--clips", type=int, default=512, help="unseen, to measure by")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("losses.json"))
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    if "released" not in found:
        found["released"] = measure(phenaki.load("shapes-64").tokenizer, given.clips)
    for arm in given.arms:
        if arm not in found:
            torch.manual_seed(0)
            tokenizer, seconds = trained(arm, given.steps)
            found[arm] = measure(tokenizer, given.clips) | {"seconds": seconds, "steps": given.steps}
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    print("arm           PSNR dB    SSIM  one object  perplexity  seconds")
    for arm, figures in found.items():
        print(
            f"{arm:12} {figures['psnr']:8.2f} {figures['ssim']:7.4f} {100 * figures['one_object']:9.1f} %"
            f" {figures['perplexity']:10.0f} {figures.get('seconds', 0):8.0f}"
        )


if __name__ == "__main__":
    main()
