"""Interpolation and inpainting on the procedural world, verified by its checker from the pixels.

`python benchmarks/editing.py --model shapes-64 --out editing.json` generates 200 clips of each from unseen scenes
of one object, and prints and saves the rate of satisfied captions and the PSNR of the kept part.

interpolation  conditioned on the first and last of 11 frames, and the caption
inpainting     a box around all positions of the object is regenerated in all frames, from the caption

PSNR of inpainting is that of the pixels of the kept tokens as decoded; with `blend` they are bit-equal, as the given
frames of an interpolation always are. Results already in `--out` are not recomputed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki import Phenaki
from phenaki.core.config import to_dict
from phenaki.core.files import write_atomic
from phenaki.evaluation.generate import FRAMES
from phenaki.evaluation.pixels import decibels
from phenaki.evaluation.protocol import provenance
from phenaki.evaluation.rates import success_rate
from phenaki.media.convert import to_float, to_uint8
from phenaki.sampling import inpaint, interpolate
from phenaki.sampling.editing import pixels_to_tokens, tokens_to_pixels
from phenaki.worlds.shapes import ShapesSample, check, render
from phenaki.worlds.shapes.evaluation import ShapesEval

FULFILLED, KNOWN = 0.85, 32.0  # the bars: share, dB
MARGIN = 2  # pixels of the box around the object
BATCH = 10

Made = list[dict[str, Any]]
"""Of each clip: `fulfilled`, `claims` (kind: fulfilled), and what else was measured."""


def interpolated(model: Phenaki, samples: Sequence[ShapesSample], video: Tensor, rng: torch.Generator) -> Made:
    captions = tuple(sample.caption for sample in samples)
    first, last = video[:, :, :1], video[:, :, -1:]
    new = interpolate(model.components, first, last, captions, FRAMES, model.sampling, rng, len(samples))
    return judged(torch.cat((first, new, last), 2), captions)


def inpainted(model: Phenaki, samples: Sequence[ShapesSample], video: Tensor, rng: torch.Generator) -> Made:
    captions = tuple(sample.caption for sample in samples)
    hole = torch.stack([box(sample) for sample in samples]).to(video.device)
    made = torch.cat(list(inpaint(model.components, video, hole, captions, model.sampling, rng)), 2)
    patch = model.tokenizer.patch
    anew = tokens_to_pixels(pixels_to_tokens(hole.expand(-1, -1, FRAMES, -1, -1), patch), patch)
    blended = judged(torch.where(anew, made, video), captions)
    error = ((made - video).square() * ~anew).sum((1, 2, 3, 4)) / (3 * (~anew).sum((1, 2, 3, 4)))
    figures = zip(decibels(error).tolist(), anew.float().mean((1, 2, 3, 4)).tolist(), blended, strict=True)
    more = [
        {"known": known if part < 1 else None, "anew": part, "blended": by["fulfilled"]} for known, part, by in figures
    ]
    return [one | two for one, two in zip(judged(made, captions), more, strict=True)]


def box(sample: ShapesSample) -> Tensor:
    """bool (1, 1, H, W): where the object is in any frame, as a box with a margin."""
    empty = render(replace(sample.scene, objects=()))
    rows, columns = np.nonzero((sample.video != empty).any((0, 3)))
    hole = torch.zeros(1, 1, *sample.video.shape[1:3], dtype=torch.bool)
    top, left = max(0, rows.min() - MARGIN), max(0, columns.min() - MARGIN)
    hole[:, :, top : rows.max() + MARGIN + 1, left : columns.max() + MARGIN + 1] = True
    return hole


def judged(video: Tensor, captions: Sequence[str]) -> Made:
    reports = [check(clip, caption) for clip, caption in zip(to_uint8(video), captions, strict=True)]
    return [
        {"fulfilled": report.fulfilled, "claims": {finding.kind: finding.fulfilled for finding in report.findings}}
        for report in reports
    ]


KINDS: dict[str, Callable[..., Made]] = {"interpolation": interpolated, "inpainting": inpainted}


def summary(made: Made) -> dict[str, Any]:
    kinds = dict.fromkeys(kind for one in made for kind in one["claims"])
    held = {kind: [one["claims"][kind] for one in made if kind in one["claims"]] for kind in kinds}
    found = success_rate(sum(one["fulfilled"] for one in made), len(made))
    found["claims"] = {kind: sum(each) / len(each) for kind, each in held.items()}
    if "known" in made[0]:
        found["blended"] = success_rate(sum(one["blended"] for one in made), len(made))
        known = [one["known"] for one in made if one["known"] is not None]  # of one that fills the frame nothing is
        found["known"] = {"mean": float(np.mean(known)), "least": min(known), "count": len(known)}
        found["anew"] = float(np.mean([one["anew"] for one in made]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes-64")
    parser.add_argument("--count", type=int, default=200, help="clips of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("editing.json"))
    given = parser.parse_args()
    model = Phenaki.from_pretrained(given.model)
    unseen = ShapesEval(tuple(model.tokenizer.config.image_size), FRAMES)
    world = unseen.world("one_object")
    protocol = unseen.protocol("one_object") | provenance(model)
    protocol |= {"seed": given.seed, "batch": BATCH, "sampling": to_dict(model.sampling)}
    found = json.loads(given.out.read_text()) if given.out.exists() else {"protocol": protocol, "made": {}}
    for name in protocol:
        if found["protocol"][name] != protocol[name] and name not in ("commit", "threads"):
            raise SystemExit(f"'{given.out}' was made with another {name}: give another --out")
    for kind, make in KINDS.items():
        made: Made = found["made"].setdefault(kind, [])
        for begin in range(len(made), given.count, BATCH):
            started = time.monotonic()
            samples = [world[index] for index in range(begin, min(begin + BATCH, given.count))]
            rng = torch.Generator(model.device).manual_seed(given.seed * 1_000_000 + begin)
            video = to_float(np.stack([sample.video for sample in samples])).to(model.device)
            made += make(model, samples, video, rng)
            found[kind] = summary(made)
            with write_atomic(given.out, "w") as file:
                json.dump(found, file, indent=1)
            hits = sum(one["fulfilled"] for one in made)
            print(f"{kind} {len(made)}: {hits} fulfilled, {time.monotonic() - started:.0f} s", flush=True)
        print(f"{kind}: {100 * found[kind]['rate']:.1f} % fulfil the caption; the bar is {100 * FULFILLED:.0f} %")
    inside, least = found["inpainting"], found["inpainting"]["known"]
    print(f"    with a blend {100 * inside['blended']['rate']:.1f} %; {100 * inside['anew']:.0f} % of the pixels anew")
    print(f"    known {least['mean']:.1f} dB, the least {least['least']:.1f}; the bar is {KNOWN:.0f} dB")


if __name__ == "__main__":
    main()
