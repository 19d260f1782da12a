"""How well a tokenizer gives clips back."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.evaluation.clips import Clips
from phenaki.evaluation.generate import Advance, batches
from phenaki.evaluation.pixels import psnr, ssim
from phenaki.evaluation.shares import share, shares_of_claims
from phenaki.media.video import to_float, to_uint8
from phenaki.perceptual import I3D, LPIPS, Judges
from phenaki.tokenizers import Tokenizer, code_usage
from phenaki.worlds.shapes import Report, check
from phenaki.worlds.shapes import Sample as Scene

MOST_PIXELS = 16 * 11 * 64 * 64  # at a time
_AT_A_TIME = 4  # clips in I3D, which makes them 224x224


PIXELS_ONLY = Judges()


def reconstruction(
    tokenizer: Tokenizer, clips: Clips, advance: Advance, judges: Judges = PIXELS_ONLY
) -> dict[str, Any]:
    """How near the reconstructions of `clips` are to them, and how the codes are used.

    `psnr`: peak signal-to-noise ratio in dB of RGB in 0..1 over a whole clip, of its first frame alone and of its other
    frames, each at most 100, averaged over the clips; `ssim` and `lpips`: of frames, averaged; `rfvd`: the Frechet
    distance of I3D's logits between all clips and all reconstructions. `codes_used`: share of the vocabulary that
    occurs in any of them; `bits_per_pixel`: of ids written plainly. `fulfilled`, on the procedural world: share of the
    reconstructions in which the checker still sees all that the clip's own caption claims, which no generator of these
    ids can be expected to exceed.
    """
    device = next(tokenizer.parameters()).device
    lpips, i3d = judges.to(device)
    frechet = _frechet(i3d) if i3d is not None else None
    height, width = tokenizer.config.image_size
    pixels = clips.frames * height * width
    found: dict[str, list[float]] = defaultdict(list)
    ids: list[Tensor] = []
    reports: dict[str, list[Report]] = defaultdict(list)
    for samples in batches(clips, max(1, MOST_PIXELS // pixels)):
        video = to_float(np.stack([sample.video for sample in samples])).to(device)
        ids.append(tokenizer.encode(video))
        decoded = tokenizer.decode(ids[-1])
        for name, values in _near(decoded, video, lpips).items():
            found[name] += values
        if frechet is not None:
            for real, whole in ((True, video), (False, decoded)):
                for part in whole.split(_AT_A_TIME):
                    frechet.update(part, real=real)
        for sample, clip in zip(samples, to_uint8(decoded), strict=True):
            if isinstance(sample, Scene):
                kind = "one_object" if len(sample.scene.objects) == 1 else "two_objects"
                reports[kind].append(check(clip, sample.claims))
        advance(len(samples))
    perplexity, used = code_usage(torch.cat(ids), tokenizer.vocab_size)
    bits = ids[0][0].numel() * math.log2(tokenizer.vocab_size)
    means = {name: float(np.mean(each)) for name, each in found.items()}
    if "psnr_rest" in means:
        means["first_minus_rest"] = means["psnr_first"] - means["psnr_rest"]
    if frechet is not None:
        means["rfvd"] = _distance(frechet, clips)
    figures = {
        "protocol": clips.protocol | judges.protocol,
        **means,
        "codes_used": used,
        "perplexity": perplexity,
        "vocab_size": tokenizer.vocab_size,
        "bits_per_pixel": bits / pixels,
    }
    if reports:
        figures["fulfilled"] = {
            kind: share(sum(report.fulfilled for report in each), len(each)) | {"claims": shares_of_claims(each)}
            for kind, each in sorted(reports.items())
        }
    if clips.left_out:
        figures["left_out"] = clips.left_out
    return figures


@torch.no_grad()
def _near(decoded: Tensor, video: Tensor, lpips: LPIPS | None) -> dict[str, list[float]]:
    """Figures of each clip, by name."""
    error = (decoded - video).square()
    near = {"psnr": psnr(error), "psnr_first": psnr(error[:, :, :1])}
    if video.shape[2] > 1:
        near["psnr_rest"] = psnr(error[:, :, 1:])
    near["ssim"] = ssim(decoded, video).mean(1).tolist()
    if lpips is not None:
        near["lpips"] = lpips(decoded, video).mean(1).tolist()
    return near


def _frechet(i3d: I3D) -> Any:
    """torchmetrics' Frechet distance, which gathers what I3D says of real and of decoded clips."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise PhenakiError("rFVD needs the package torchmetrics: pip install 'phenaki[metrics]'") from error
    device = next(i3d.parameters()).device
    return FrechetInceptionDistance(feature=i3d).to(device).requires_grad_(False)


def _distance(frechet: Any, clips: Clips) -> float:
    if clips.protocol["clips"] < 2:
        raise PhenakiError(f"rFVD is a distance of many clips, and '{clips.place}' gave 1: give more, or leave it out")
    return float(frechet.compute())
