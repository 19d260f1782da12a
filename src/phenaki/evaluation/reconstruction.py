"""How well a tokenizer reconstructs clips."""

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
from phenaki.evaluation.pixels import edge_energy, psnr, sharpness, ssim
from phenaki.evaluation.rates import claim_rates, success_rate
from phenaki.evaluation.world import Report
from phenaki.media.convert import to_float, to_uint8
from phenaki.perceptual import I3D, LPIPS, PerceptualNetworks
from phenaki.tokenizers import Tokenizer, code_usage

MAX_PIXELS = 16 * 11 * 64 * 64  # per batch
_I3D_BATCH = 4  # clips, which I3D enlarges to 224x224
PIXELS_ONLY = PerceptualNetworks()


def reconstruction(
    tokenizer: Tokenizer, clips: Clips, advance: Advance, perceptual: PerceptualNetworks = PIXELS_ONLY
) -> dict[str, Any]:
    """Distances between `clips` and their reconstructions, and codebook usage.

    `psnr`: dB over a clip, RGB in 0..1; also over its first frame and over its other frames; each at most 100, averaged
    over clips. `ssim`, `lpips`: averaged over frames. `gradient_energy`, `blockiness`: see `sharpness`. `rfvd`: Frechet
    distance between the I3D logits of clips and reconstructions. `codes_used`: fraction of the vocabulary that occurs.
    `bits_per_pixel`: of uncompressed ids.
    `fulfilled`: for clips of a world, the rate of reconstructions in which its checker still finds everything that the
    caption claims, an upper bound for any generator of these ids.
    """
    device = next(tokenizer.parameters()).device
    lpips, i3d = perceptual.to(device)
    frechet = open_frechet(i3d) if i3d is not None else None
    height, width = tokenizer.config.image_size
    pixels = clips.frames * height * width
    distances: dict[str, list[float]] = defaultdict(list)
    edges: list[Tensor] = []
    ids: list[Tensor] = []
    reports: dict[str, list[Report]] = defaultdict(list)
    for samples in batches(clips, max(1, MAX_PIXELS // pixels)):
        video = to_float(np.stack([sample.video for sample in samples])).to(device)
        ids.append(tokenizer.encode(video))
        decoded = tokenizer.decode(ids[-1])
        for name, values in _distances(decoded, video, lpips).items():
            distances[name] += values
        edges.append(torch.stack([edge_energy(x, tokenizer.patch) for x in (decoded, video)]))
        if frechet is not None:
            for real, batch in ((True, video), (False, decoded)):
                for few in batch.split(_I3D_BATCH):
                    frechet.update(few, real=real)
        if not isinstance(clips.source, str):
            for sample, clip in zip(samples, to_uint8(decoded), strict=True):
                reports[sample.kind].append(clips.source.check(clip, sample.caption))
        advance(len(samples))
    perplexity, used = map(float, code_usage(torch.cat(ids), tokenizer.vocab_size, tokenizer.num_codebooks))
    bits = ids[0][0].numel() * math.log2(tokenizer.vocab_size)
    means = {name: float(np.mean(values)) for name, values in distances.items()}
    if "psnr_rest" in means:
        means["first_minus_rest"] = means["psnr_first"] - means["psnr_rest"]
    means |= sharpness(*torch.cat(edges, dim=-1))
    if frechet is not None:
        means["rfvd"] = frechet_distance(frechet, clips)
    metrics = {
        "protocol": clips.protocol | perceptual.protocol,
        **means,
        "codes_used": used,
        "perplexity": perplexity,
        "vocab_size": tokenizer.vocab_size,
        "bits_per_pixel": bits / pixels,
    }
    if reports:
        metrics["fulfilled"] = {
            kind: success_rate(sum(report.fulfilled for report in of_kind), len(of_kind))
            | {"claims": claim_rates(of_kind)}
            for kind, of_kind in sorted(reports.items())
        }
    if clips.skipped:
        metrics["skipped"] = clips.skipped
    return metrics


@torch.no_grad()
def _distances(decoded: Tensor, video: Tensor, lpips: LPIPS | None) -> dict[str, list[float]]:
    """For each clip, by name of the metric."""
    error = (decoded - video).square()
    distances = {"psnr": psnr(error), "psnr_first": psnr(error[:, :, :1])}
    if video.shape[2] > 1:
        distances["psnr_rest"] = psnr(error[:, :, 1:])
    distances["ssim"] = ssim(decoded, video).mean(1).tolist()
    if lpips is not None:
        distances["lpips"] = lpips(decoded, video).mean(1).tolist()
    return distances


def open_frechet(i3d: I3D) -> Any:
    """torchmetrics' Frechet distance over the logits of I3D."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise PhenakiError("rFVD needs the package torchmetrics: pip install 'phenaki[metrics]'") from error
    device = next(i3d.parameters()).device
    return FrechetInceptionDistance(feature=i3d).to(device).requires_grad_(False)


def frechet_distance(frechet: Any, clips: Clips) -> float:
    if clips.protocol["clips"] < 2:
        raise PhenakiError(f"rFVD needs 2 clips or more, and '{clips.source}' has 1: give more data, or skip rFVD")
    return float(frechet.compute())
