"""How fast a second stage learns: our generator and that of `phenaki-pytorch`, from scratch, for the same wall time.

`pip install phenaki-pytorch`, then `python benchmarks/learning_generator.py --minutes 60 --out learning_generator.json`
encodes clips of the procedural world (64 x 64 pixels, 11 frames) and their captions by the released model shapes-64,
once, and trains both on them, one after the other, each in a process of its own (`--side-by-side`: in parallel, on one
core each): of the same width and depth, in batches of the same size, in bfloat16 where that is faster. Ours trains with
the recipe masked_shapes_64 (on complete clips), theirs as its trainer does (Adam, 1e-4). Every other minute both
predict the same masked ids of the same 64 unseen clips; the cross-entropy is printed, saved and plotted. Time is wall
time of the updates alone, on an idle machine; with `--side-by-side` it is CPU time.

Ours is evaluated with the EMA weights that it saves; their trainer keeps none. `--lr` is for theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import versions
from phenaki_pytorch_models import build_phenaki
from plots import save_curves
from torch import Tensor, nn

from phenaki import Phenaki
from phenaki.conditioning import Text
from phenaki.core.files import write_atomic
from phenaki.core.precision import autocast
from phenaki.generators import Components
from phenaki.generators.masking import masked_count, random_mask
from phenaki.media.convert import to_float
from phenaki.tokenizers import TokenizerSpec
from phenaki.training.generator import compute_loss
from phenaki.training.masking import GeneratorBatch
from phenaki.training.recipes import masked_shapes_64
from phenaki.worlds.shapes import ShapesWorld

MODEL, SIZE, FRAMES, UNSEEN = "shapes-64", 64, 11, 64
RECIPE = masked_shapes_64()
WIDTH, LAYERS, HEAD, BATCH = RECIPE.generator.width, RECIPE.generator.layers, 64, RECIPE.data.batch
CPU = torch.device("cpu")
SIDES = ("ours", "theirs")

Clips = dict[str, Tensor]
"""ids int64 (B, t, h, w), text float (B, L, D) and its mask bool (B, L)."""
Update = Callable[[Clips], None]
Logits = Callable[[Tensor, Clips], Tensor]
"""Of masked ids (B, t, h, w), before clips that they are of -> (B, t, h, w, V)."""


# ---- both learn from these


@torch.no_grad()
def encode(model: Phenaki, split: str, seed: int, count: int) -> Clips:
    """The first clips of a world and their captions, as the released model encodes them."""
    world, ids, texts = ShapesWorld(seed, split, SIZE, FRAMES), [], []
    for begin in range(0, count, BATCH):
        samples = [world[i] for i in range(begin, min(begin + BATCH, count))]
        ids.append(model.tokenizer.encode(to_float(np.stack([sample.video for sample in samples]))))
        with autocast(CPU):
            texts.append(model.text_encoder.encode([sample.caption for sample in samples]))
    longest = max(text.mask.shape[1] for text in texts)
    padded = [F.pad(text.embeddings.float(), (0, 0, 0, longest - text.mask.shape[1])) for text in texts]
    masks = [F.pad(text.mask, (0, longest - text.mask.shape[1])) for text in texts]
    text, mask = torch.cat(padded), torch.cat(masks)
    return {"ids": torch.cat(ids), "text": (text * mask[..., None]).bfloat16(), "mask": mask}


def tokens(path: Path, clips: int) -> dict[str, Clips]:
    """Clips to learn from, and unseen ones; encoded where `path` does not hold them yet."""
    if not path.exists():
        model = Phenaki.from_pretrained(MODEL)
        found = {"train": encode(model, "train", 0, clips), "unseen": encode(model, "test", 7, UNSEEN)}
        with write_atomic(path) as file:
            torch.save(found, file)
    return torch.load(path, weights_only=True)


def batches(clips: Clips) -> Iterator[Clips]:
    rng = torch.Generator().manual_seed(1)
    while True:
        chosen = torch.randint(len(clips["ids"]), (BATCH,), generator=rng)
        yield {name: values[chosen] for name, values in clips.items()}


# ---- ours and theirs


def ours(spec: TokenizerSpec, text_width: int, steps: int, lr: float) -> tuple[Update, Logits]:
    """The update of `train_generator` alone. `steps`: the length of the learning rate schedule."""
    from phenaki.generators import MaskedTransformer
    from phenaki.training.optim import Optimizers, averaged

    model = MaskedTransformer(RECIPE.generator.config(spec, text_width))
    ema = averaged(model, RECIPE.optimizer.ema_decay)
    optimizers = Optimizers([model], RECIPE.optimizer, steps)
    rng, done = torch.Generator().manual_seed(2), iter(range(10**9))

    def update(clips: Clips) -> None:
        ids = clips["ids"]
        free = torch.ones_like(ids, dtype=torch.bool)
        masked = random_mask(free, masked_count(torch.rand(BATCH, generator=rng), free.flatten(1).sum(1)), rng)
        dropped = torch.rand(BATCH, generator=rng) < RECIPE.loss.text_drop
        text = Text(clips["text"].float(), clips["mask"])
        weight = torch.ones(ids.shape)
        weight[:, 0] = RECIPE.loss.first_frame_weight
        where = masked.flatten().nonzero().squeeze(1)
        batch = GeneratorBatch(ids, text, dropped, where, weight[masked], free=where, uniform=None)
        loss, *_ = compute_loss(Components(model), batch, RECIPE, partial(autocast, CPU))
        loss.backward()
        optimizers.update(min(next(done), steps - 1))
        ema.update_parameters(model)

    def logits(ids: Tensor, clips: Clips) -> Tensor:
        return ema.module(ids, ema.module.condition(Text(clips["text"].float(), clips["mask"])))

    return update, logits


def theirs(spec: TokenizerSpec, text_width: int, steps: int, lr: float) -> tuple[Update, Logits]:
    from phenaki_pytorch.optimizer import get_optimizer

    grid = (FRAMES // 2 + 1, SIZE // 8, SIZE // 8)
    model = build_phenaki(WIDTH, LAYERS, HEAD, spec.vocab_size, grid, text_width)
    maskgit = model.maskgit
    optimizer = get_optimizer(maskgit.parameters(), lr=lr, wd=0, betas=(0.9, 0.99))

    def update(clips: Clips) -> None:
        with autocast(CPU):
            loss = model(video_codebook_ids=clips["ids"], text_embeds=clips["text"].float())
        loss.backward()
        nn.utils.clip_grad_norm_(maskgit.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def logits(ids: Tensor, clips: Clips) -> Tensor:
        everything = torch.ones(len(ids), ids[0].numel(), dtype=torch.bool)
        found = maskgit(ids, context=clips["text"].float(), text_mask=clips["mask"], video_mask=everything)
        return found.unflatten(1, ids.shape[1:])

    return update, logits


# ---- how they learn


@torch.no_grad()
def cross_entropy(logits_of: Logits, unseen: Clips, mask_id: int) -> float:
    """Of the masked ids, in nats, over a range of mask ratios; the same masks each time."""
    ids = unseen["ids"]
    free = torch.ones_like(ids, dtype=torch.bool)
    counts = masked_count(torch.linspace(0, 0.95, len(ids)), free.flatten(1).sum(1))
    masked = random_mask(free, counts, torch.Generator().manual_seed(0))
    total = 0.0
    for part in torch.arange(len(ids)).split(BATCH):
        clips = {name: values[part] for name, values in unseen.items()}
        with autocast(CPU):
            logits = logits_of(ids[part].masked_fill(masked[part], mask_id), clips)[masked[part]]
        total += F.cross_entropy(logits.float(), ids[part][masked[part]], reduction="sum").item()
    return total / int(masked.sum())


def now(args: argparse.Namespace) -> float:
    """Seconds: wall time, or CPU time where both share the machine."""
    return time.process_time() if args.side_by_side else time.perf_counter()


def seconds_of(update: Update, clips: Iterator[Clips], args: argparse.Namespace, repeats: int = 12) -> float:
    """Median time of an update, from which the length of the schedule is planned."""
    times = []
    for _ in range(repeats):
        began = now(args)
        update(next(clips))
        times.append(now(args) - began)
    return sorted(times)[repeats // 2]


def learn(name: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """The cross-entropy over the minutes spent in updates."""
    found = tokens(args.tokens, args.clips)
    spec, text_width = Phenaki.from_pretrained(MODEL).tokenizer.spec, found["train"]["text"].shape[-1]
    make = {"ours": ours, "theirs": theirs}[name]
    torch.manual_seed(0)
    a_step = seconds_of(make(spec, text_width, 1000, args.lr)[0], batches(found["train"]), args)
    torch.manual_seed(0)
    update, logits_of = make(spec, text_width, max(1, int(60 * args.minutes / a_step)), args.lr)
    curve, seconds, steps, due = [], 0.0, 0, args.every
    for clips in batches(found["train"]):
        began = now(args)
        update(clips)
        seconds += now(args) - began
        steps += 1
        if seconds >= 60 * min(due, args.minutes):
            loss = cross_entropy(logits_of, found["unseen"], spec.vocab_size)
            curve.append({"minutes": seconds / 60, "steps": steps, "cross_entropy": loss})
            print(f"{name:6} {seconds / 60:6.1f} min {steps:6} steps {loss:7.4f} nats", flush=True)
            due += args.every
        if seconds >= 60 * args.minutes:
            break
    return curve


def part(args: argparse.Namespace, name: str) -> Path:
    """The file of one curve until both are done."""
    return args.out.with_suffix(f".{name}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=2)
    parser.add_argument("--clips", type=int, default=16_384, help="number of training clips")
    parser.add_argument("--tokens", type=Path, default=Path("learning_generator_tokens.pt"), help="created if missing")
    parser.add_argument("--lr", type=float, default=1e-4, help="of theirs")
    parser.add_argument("--out", type=Path, default=Path("learning_generator.json"))
    parser.add_argument("--side-by-side", action="store_true", help="in parallel, on one core each")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        if args.side_by_side:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[SIDES.index(args.only)]})
            torch.set_num_threads(1)
        part(args, args.only).write_text(json.dumps(learn(args.only, args), indent=1) + "\n")
        return
    tokens(args.tokens, args.clips)
    print(versions(1 if args.side_by_side else None), flush=True)
    running = []
    for name in SIDES:
        running.append(subprocess.Popen([sys.executable, *sys.argv, "--only", name]))
        if not args.side_by_side and running[-1].wait():
            raise SystemExit(1)
    if any(side.wait() for side in running):
        raise SystemExit(1)
    found = {name: json.loads(part(args, name).read_text()) for name in SIDES}
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    save_curves(args.out.with_suffix(".png"), "cross-entropy, nats", found, "cross_entropy")
    lead = found["theirs"][-1]["cross_entropy"] - found["ours"][-1]["cross_entropy"]
    print(f"after {args.minutes:g} minutes ours is {lead:+.3f} nats below theirs (bar: above 0)")


if __name__ == "__main__":
    main()
