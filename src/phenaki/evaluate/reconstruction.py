"""How well a tokenizer gives unseen clips back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki.evaluate.generate import Advance, batches
from phenaki.evaluate.protocol import measured_on, unseen_world
from phenaki.tokenizer import Tokenizer, code_usage
from phenaki.video import to_float

BEST_PSNR = 100.0  # dB; a perfect reconstruction would have infinitely many
MOST_PIXELS = 16 * 11 * 64 * 64  # at a time


def reconstruction(tokenizer: Tokenizer, clips: int, advance: Advance) -> dict[str, Any]:
    """Peak signal-to-noise ratios in dB, and how the codes are used, over the first `clips` unseen clips of 11 frames.

    PSNR is that of RGB in 0..1 over a whole clip, of its first frame alone and of its other frames, each at most 100,
    averaged over the clips. `codes_used`: share of the vocabulary that occurs in any of them; `bits_per_pixel`: of ids
    written plainly.
    """
    world = unseen_world(tokenizer)
    device = next(tokenizer.parameters()).device
    at_a_time = max(1, MOST_PIXELS // (world.frames * world.height * world.width))
    psnr, psnr_first, psnr_rest, ids = [], [], [], []
    for numbers in batches(range(clips), at_a_time):
        video = to_float(np.stack([world[i].video for i in numbers])).to(device)
        ids.append(tokenizer.encode(video))
        error = (tokenizer.decode(ids[-1]) - video).square()
        psnr += _psnr(error)
        psnr_first += _psnr(error[:, :, :1])
        psnr_rest += _psnr(error[:, :, 1:])
        advance(len(numbers))
    perplexity, used = code_usage(torch.cat(ids), tokenizer.vocab_size)
    bits = ids[0][0].numel() * math.log2(tokenizer.vocab_size)
    first, rest = float(np.mean(psnr_first)), float(np.mean(psnr_rest))
    return {
        "protocol": {"clips": clips} | measured_on(world),
        "psnr": float(np.mean(psnr)),
        "psnr_first": first,
        "psnr_rest": rest,
        "first_minus_rest": first - rest,
        "codes_used": used,
        "perplexity": perplexity,
        "vocab_size": tokenizer.vocab_size,
        "bits_per_pixel": bits / (world.frames * world.height * world.width),
    }


def _psnr(error: Tensor) -> list[float]:
    """Squared errors (B, 3, T, H, W) -> dB of each clip."""
    return (-10 * error.double().mean((1, 2, 3, 4)).clamp_min(10 ** (-BEST_PSNR / 10)).log10()).tolist()
