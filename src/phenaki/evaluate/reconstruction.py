"""How well a tokenizer gives unseen clips back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki.data.shapes import Report, check
from phenaki.evaluate.generate import Advance, batches
from phenaki.evaluate.protocol import measured_on, unseen_world
from phenaki.evaluate.shares import share, shares_of_claims
from phenaki.tokenizer import Tokenizer, code_usage
from phenaki.video import to_float, to_uint8

BEST_PSNR = 100.0  # dB; a perfect reconstruction would have infinitely many
MOST_PIXELS = 16 * 11 * 64 * 64  # at a time


def reconstruction(tokenizer: Tokenizer, clips: int, advance: Advance) -> dict[str, Any]:
    """Peak signal-to-noise ratios in dB, and how the codes are used, over the first `clips` unseen clips of 11 frames.

    PSNR is that of RGB in 0..1 over a whole clip, of its first frame alone and of its other frames, each at most 100,
    averaged over the clips. `codes_used`: share of the vocabulary that occurs in any of them; `bits_per_pixel`: of ids
    written plainly. `fulfilled`: share of the reconstructions in which the checker still sees all that the clip's own
    caption claims, which no generator of these ids can be expected to exceed.
    """
    world = unseen_world(tokenizer)
    device = next(tokenizer.parameters()).device
    at_a_time = max(1, MOST_PIXELS // (world.frames * world.height * world.width))
    decibels: dict[str, list[float]] = {"psnr": [], "psnr_first": [], "psnr_rest": []}
    ids: list[Tensor] = []
    reports: dict[str, list[Report]] = {"one_object": [], "two_objects": []}
    for numbers in batches(range(clips), at_a_time):
        samples = [world[i] for i in numbers]
        video = to_float(np.stack([sample.video for sample in samples])).to(device)
        ids.append(tokenizer.encode(video))
        decoded = tokenizer.decode(ids[-1])
        error = (decoded - video).square()
        for name, part in zip(decibels, (error, error[:, :, :1], error[:, :, 1:]), strict=True):
            decibels[name] += psnr(part)
        for sample, clip in zip(samples, to_uint8(decoded), strict=True):
            kind = "one_object" if len(sample.scene.objects) == 1 else "two_objects"
            reports[kind].append(check(clip, sample.claims))
        advance(len(numbers))
    perplexity, used = code_usage(torch.cat(ids), tokenizer.vocab_size)
    bits = ids[0][0].numel() * math.log2(tokenizer.vocab_size)
    means = {name: float(np.mean(each)) for name, each in decibels.items()}
    return {
        "protocol": {"clips": clips} | measured_on(world),
        **means,
        "first_minus_rest": means["psnr_first"] - means["psnr_rest"],
        "codes_used": used,
        "perplexity": perplexity,
        "vocab_size": tokenizer.vocab_size,
        "bits_per_pixel": bits / (world.frames * world.height * world.width),
        "fulfilled": {
            kind: share(sum(report.fulfilled for report in each), len(each)) | {"claims": shares_of_claims(each)}
            for kind, each in reports.items()
            if each
        },
    }


def psnr(error: Tensor) -> list[float]:
    """Squared errors (B, 3, T, H, W) of RGB in 0..1 -> peak signal-to-noise ratio of each clip in dB, at most 100."""
    return (-10 * error.double().mean((1, 2, 3, 4)).clamp_min(10 ** (-BEST_PSNR / 10)).log10()).tolist()
