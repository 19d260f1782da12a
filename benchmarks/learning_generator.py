"""How fast a second stage learns: our generator beside that of `phenaki-pytorch`, from scratch, for the same wall time.

`pip install phenaki-pytorch`, then `python benchmarks/learning_generator.py --minutes 60 --out learning_generator.json`
encodes clips of the procedural world (64 x 64 pixels, 11 frames) and their captions by the released model shapes-64,
once, and trains both on them, one after the other, each in a process of its own (`--side-by-side`: at the same time, on
a core each): of the same width and depth, in batches of the same size, in bfloat16 where the machine is faster with it.
Ours trains as the recipe masked_shapes_64 says (on whole clips), theirs as its trainer does (Adam, 1e-4). Every other
minute each fills in the same masked ids of the same 64 unseen clips, and the cross-entropy is written down, and drawn
beside the figures. Time is that of the updates alone, by the clock, and nothing may run beside it; side by side it is
that of each one's core, which does not count what else runs there.

Ours is judged by the averaged weights that it saves; their trainer keeps none. `--lr` is for theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from plots import plot
from torch import Tensor, nn

from phenaki import Phenaki
from phenaki.conditioning import Text
from phenaki.core.files import write_atomic
from phenaki.core.precision import autocast
from phenaki.generators.losses import masked_cross_entropy
from phenaki.generators.masking import masked_count, random_mask
from phenaki.media.convert import to_float
from phenaki.media.writer import write_image
from phenaki.tokenizers import TokenizerSpec
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
    """The update of `train_generator`, without what surrounds it. `steps`: over which the rate cools down."""
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
        with autocast(CPU):
            condition = model.condition(Text(clips["text"].float(), clips["mask"]), drop=dropped)
            where = masked.flatten().nonzero().squeeze(1)
            logits = model(ids.masked_fill(masked, model.mask_id), condition, where)
        weight = torch.ones(ids.shape)
        weight[:, 0] = RECIPE.loss.first_frame_weight
        masked_cross_entropy(logits, ids[masked], weight[masked], RECIPE.loss.label_smoothing).backward()
        optimizers.update(min(next(done), steps - 1))
        ema.update_parameters(model)

    def logits(ids: Tensor, clips: Clips) -> Tensor:
        return ema.module(ids, ema.module.condition(Text(clips["text"].float(), clips["mask"])))

    return update, logits


def theirs(spec: TokenizerSpec, text_width: int, steps: int, lr: float) -> tuple[Update, Logits]:
    from phenaki_pytorch import CViViT, MaskGit, Phenaki
    from phenaki_pytorch.optimizer import get_optimizer
    from phenaki_pytorch.t5 import T5_CONFIGS

    T5_CONFIGS["given"] = {"config": SimpleNamespace(d_model=text_width)}  # or it asks the network for T5's
    sizes = {"dim": WIDTH, "heads": WIDTH // HEAD, "dim_head": HEAD}
    length = 6 * (SIZE // 8) ** 2
    maskgit = MaskGit(num_tokens=spec.vocab_size, max_seq_len=length, depth=LAYERS, dim_context=text_width, **sizes)
    depths = {"spatial_depth": 1, "temporal_depth": 1, "use_vgg_and_gan": False, "codebook_size": 1024}
    cvivit = CViViT(image_size=SIZE, patch_size=8, temporal_patch_size=2, **depths, **sizes)
    model = Phenaki(maskgit=maskgit, cvivit=cvivit, t5_name="given", text_embed_dim=text_width)
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
    """Of the masked ids, nats, at one mask share after another; the same masks each time."""
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


def now(given: argparse.Namespace) -> float:
    """Seconds that have passed for one that has the machine, or a core, to itself."""
    return time.process_time() if given.side_by_side else time.perf_counter()


def seconds_of(update: Update, clips: Iterator[Clips], given: argparse.Namespace, repeats: int = 12) -> float:
    """Median of an update, by which the steps of the cooling-down are planned."""
    times = []
    for _ in range(repeats):
        began = now(given)
        update(next(clips))
        times.append(now(given) - began)
    return sorted(times)[repeats // 2]


def learn(name: str, given: argparse.Namespace) -> list[dict[str, float]]:
    """The cross-entropy over the minutes spent in updates."""
    found = tokens(given.tokens, given.clips)
    spec, text_width = Phenaki.from_pretrained(MODEL).tokenizer.spec, found["train"]["text"].shape[-1]
    make = {"ours": ours, "theirs": theirs}[name]
    torch.manual_seed(0)
    a_step = seconds_of(make(spec, text_width, 1000, given.lr)[0], batches(found["train"]), given)
    torch.manual_seed(0)
    update, logits_of = make(spec, text_width, max(1, int(60 * given.minutes / a_step)), given.lr)
    curve, seconds, steps, due = [], 0.0, 0, given.every
    for clips in batches(found["train"]):
        began = now(given)
        update(clips)
        seconds += now(given) - began
        steps += 1
        if seconds >= 60 * min(due, given.minutes):
            loss = cross_entropy(logits_of, found["unseen"], spec.vocab_size)
            curve.append({"minutes": seconds / 60, "steps": steps, "cross_entropy": loss})
            print(f"{name:6} {seconds / 60:6.1f} min {steps:6} steps {loss:7.4f} nats", flush=True)
            due += given.every
        if seconds >= 60 * given.minutes:
            break
    return curve


def part(given: argparse.Namespace, name: str) -> Path:
    """Where the curve of one is kept until both are there."""
    return given.out.with_suffix(f".{name}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=2)
    parser.add_argument("--clips", type=int, default=16_384, help="to learn from")
    parser.add_argument("--tokens", type=Path, default=Path("learning_generator_tokens.pt"), help="made if not there")
    parser.add_argument("--lr", type=float, default=1e-4, help="of theirs")
    parser.add_argument("--out", type=Path, default=Path("learning_generator.json"))
    parser.add_argument("--side-by-side", action="store_true", help="at the same time, on one thread and core each")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        if given.side_by_side:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[SIDES.index(given.only)]})
            torch.set_num_threads(1)
        part(given, given.only).write_text(json.dumps(learn(given.only, given), indent=1) + "\n")
        return
    tokens(given.tokens, given.clips)
    threads = 1 if given.side_by_side else torch.get_num_threads()
    print(f"torch {torch.__version__}, phenaki-pytorch {version('phenaki-pytorch')}, {threads} threads", flush=True)
    running = []
    for name in SIDES:
        running.append(subprocess.Popen([sys.executable, *sys.argv, "--only", name]))
        if not given.side_by_side and running[-1].wait():
            raise SystemExit(1)
    if any(side.wait() for side in running):
        raise SystemExit(1)
    found = {name: json.loads(part(given, name).read_text()) for name in SIDES}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    curves = {name: [(point["minutes"], point["cross_entropy"]) for point in points] for name, points in found.items()}
    write_image(given.out.with_suffix(".png"), np.asarray(plot("cross-entropy, nats", curves, "minutes")))
    ahead = found["theirs"][-1]["cross_entropy"] - found["ours"][-1]["cross_entropy"]
    print(f"after {given.minutes:g} minutes ours is {ahead:+.3f} nats below theirs (bar: above 0)")


if __name__ == "__main__":
    main()
