"""How fast a first stage learns: our C-ViViT and that of `phenaki-pytorch`, from scratch, for the same time.

`pip install phenaki-pytorch`, then `python benchmarks/learning.py --minutes 30 --out learning.json` trains both on the
procedural world of shapes (64 x 64 pixels, 11 frames), of the same width and depth, on the same batches, one thread
each, and prints the PSNR on 64 unseen clips every other minute; it also plots both curves. Ours trains with the recipe
of the released model, theirs as its trainer does without a discriminator (Adam, 3e-4, clipping 0.5, EMA, the loss that
its model returns); both are evaluated with EMA weights. Time is CPU time of the updates alone, which is wall time on an
idle machine, so that the two may run in parallel on two cores (`--only`). `--bfloat16` is for theirs.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import versions
from phenaki_pytorch_models import build_cvivit
from plots import save_curves
from torch import Tensor, nn

from phenaki.core.precision import autocast
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.loader import Batches
from phenaki.evaluation.reconstruction import psnr
from phenaki.media.convert import to_float
from phenaki.training.recipes import cvivit_shapes_64
from phenaki.worlds.shapes import ShapesWorld

SIZE, FRAMES, BATCH, CODES = 64, 11, 6, 2048
WIDTH, LAYERS, HEAD = 128, 2, 64  # of the released tokenizer
UNSEEN = 64

Update = Callable[[Tensor], None]
Reconstruct = Callable[[Tensor], Tensor]


def ours(steps: int) -> tuple[Update, Reconstruct]:
    """The update of `phenaki train tokenizer` alone. `steps`: the length of the learning rate schedule."""
    from phenaki.tokenizers import CViViT
    from phenaki.tokenizers.losses import code_losses, pixel_losses
    from phenaki.training.optim import Optimizers, averaged

    recipe = cvivit_shapes_64()
    model = CViViT(recipe.tokenizer)
    ema = averaged(model, recipe.optimizer.ema_decay)
    optimizers = Optimizers([model], recipe.optimizer, steps)
    done = iter(range(10**9))

    def update(video: Tensor) -> None:
        with autocast(video.device):
            out = model(video)
        losses = pixel_losses(out.video, video, recipe.loss) | code_losses(out, video, model, recipe.loss)
        sum(losses.values()).backward()
        optimizers.update(min(next(done), steps - 1))
        ema.update_parameters(model)

    return update, lambda video: ema.module.decode(ema.module.encode(video))


def theirs(bfloat16: bool) -> tuple[Update, Reconstruct]:
    model = build_cvivit(WIDTH, LAYERS, HEAD, CODES, SIZE)
    ema = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.9, 0.99))

    def update(video: Tensor) -> None:
        model.train()
        with autocast(video.device, "bfloat16" if bfloat16 else "float32"):
            loss = model(video)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(ema.parameters(), model.parameters(), strict=True):
                mean.lerp_(parameter, 0.005)

    def reconstruct(video: Tensor) -> Tensor:
        ema.eval()
        return ema(video, return_recons_only=True)

    return update, reconstruct


def batches() -> Iterator[Tensor]:
    """Clips of 11 frames: theirs trains on one length only, so both do."""
    config = DataConfig(
        (SourceConfig("shapes"),), size=SIZE, batch=BATCH, lengths=(FRAMES,), length_weights=(1.0,), workers=0
    )
    for batch in Batches(config, 2, 0, 1, captions=False):
        yield to_float(batch["video"])


@torch.no_grad()
def quality(reconstruct: Reconstruct, unseen: Tensor) -> float:
    errors = [(reconstruct(part).float().clamp(0, 1) - part).square() for part in unseen.split(8)]
    return float(np.mean(psnr(torch.cat(errors))))


def learn(update: Update, reconstruct: Reconstruct, minutes: float, every: float) -> list[dict[str, float]]:
    """PSNR over the minutes spent in updates."""
    world = ShapesWorld(7, "test", SIZE, FRAMES)
    unseen = to_float(np.stack([world[i].video for i in range(UNSEEN)]))
    curve, seconds, steps, due = [], 0.0, 0, every
    for video in batches():
        began = time.thread_time()
        update(video)
        seconds += time.thread_time() - began
        steps += 1
        if seconds >= 60 * due or seconds >= 60 * minutes:
            point = {"minutes": seconds / 60, "steps": steps, "psnr": quality(reconstruct, unseen)}
            print(f"{point['minutes']:6.1f} min {steps:6} steps {point['psnr']:6.2f} dB", flush=True)
            curve.append(point)
            due += every
        if seconds >= 60 * minutes:
            return curve
    return curve


def seconds_of(update: Update, video: Tensor, repeats: int = 12) -> float:
    """Median CPU time of an update, from which the length of the schedule is planned."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        update(video)
        times.append(time.thread_time() - began)
    return sorted(times)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=2)
    parser.add_argument("--only", choices=("ours", "theirs"))
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("learning.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(versions())
    for name in [args.only] if args.only else ["ours", "theirs"]:
        torch.manual_seed(0)
        if name == "ours":
            a_step = seconds_of(ours(1000)[0], next(batches()))
            torch.manual_seed(0)
            update, reconstruct = ours(int(60 * args.minutes / a_step))
        else:
            update, reconstruct = theirs(args.bfloat16)
        print(name)
        curve = learn(update, reconstruct, args.minutes, args.every)
        found = json.loads(args.out.read_text()) if args.out.exists() else {}  # the other may be done meanwhile
        found[name] = curve
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if len(found) == 2:
        save_curves(args.out.with_suffix(".png"), "PSNR on unseen clips, dB", found, "psnr")
        lead = found["ours"][-1]["psnr"] - found["theirs"][-1]["psnr"]
        print(f"after {args.minutes:g} minutes ours is {lead:+.2f} dB above theirs (bar +3)")


if __name__ == "__main__":
    main()
