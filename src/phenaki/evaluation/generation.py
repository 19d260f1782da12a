"""How near clips generated from held-out captions come to the real clips, on any data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phenaki.core.config import to_dict
from phenaki.core.errors import PhenakiError
from phenaki.evaluation.clips import Clips
from phenaki.evaluation.generate import Advance, Model, batch_size, batches, seeded_rng
from phenaki.evaluation.pixels import edge_energy, sharpness
from phenaki.evaluation.rates import success_rate
from phenaki.evaluation.reconstruction import PIXELS_ONLY, frechet_distance, open_frechet
from phenaki.media.convert import Frames, to_float, to_uint8
from phenaki.perceptual import PerceptualNetworks
from phenaki.sampling import Scene, rollout
from phenaki.tokenizers import Tokenizer

LARGEST = 256  # clips: generating takes longer than reconstructing
FEATURES = "tokenizer latents: mean, deviation, change over time"
_I3D_BATCH = 4

Pairs = Callable[[Sequence[str], list[Frames], list[Frames]], None]
"""Captions, real clips and generated clips uint8 (T, H, W, 3)."""


def clip_frames(model: Model) -> int:
    """Frames of the clips that a model is evaluated on: those of a scene."""
    return model.sampling.rollout.scene_frames or model.components.generator.config.frames


@torch.no_grad()
def generation(
    model: Model,
    clips: Clips,
    seed: int,
    advance: Advance,
    perceptual: PerceptualNetworks = PIXELS_ONLY,
    show: Pairs | None = None,
) -> dict[str, Any]:
    """Distances between the clips of a data set and as many generated from their captions.

    `kernel_distance`: maximum mean discrepancy with the kernel of KID (1801.01401), unbiased, in a feature space of the
    model's own tokenizer, each dimension scaled by the real clips; `real_distance`: that between two halves of the real
    clips, what chance alone makes. `retrieval`: how often a generated clip is nearer to the real clip of its caption
    than to all others (`first`), or is among the five nearest (`five`), beside `chance`. `motion`: mean change from
    frame to frame, `gradient_energy` and `blockiness` as in `sharpness`, relative to the real clips. `fvd`: with I3D,
    the Frechet distance between logits.

    Raises PhenakiError for data without captions, if the model reads text.
    """
    components, tokenizer = model.components, model.components.tokenizer
    device, i3d = components.device, perceptual.to(components.device).i3d
    frechet = open_frechet(i3d) if i3d is not None else None
    rng, size = seeded_rng(model, seed), tuple(tokenizer.config.image_size)
    captions: list[str] = []
    features: dict[bool, list[Tensor]] = {True: [], False: []}
    edges: list[Tensor] = []
    change = torch.zeros(2, dtype=torch.float64)
    for samples in batches(clips, batch_size(model)):
        texts = [sample.caption for sample in samples]
        for text in texts:
            _check(components, text, clips)
        real = to_float(np.stack([sample.video for sample in samples])).to(device)
        scene = Scene(tuple(texts), clips.frames)
        pieces = list(rollout(components, [scene], model.sampling, rng, samples=len(texts), size=size))
        made = torch.cat(pieces, dim=2).to(device)
        edges.append(torch.stack([edge_energy(video, tokenizer.patch) for video in (made, real)]))
        for number, (is_real, video) in enumerate(((False, made), (True, real))):
            features[is_real].append(clip_features(tokenizer, video))
            change[number] += (video.diff(dim=2).abs().mean().double() * len(video)).cpu()
            if frechet is not None:
                for few in video.split(_I3D_BATCH):
                    frechet.update(few, real=is_real)
        if show is not None and not captions:
            show(texts, list(to_uint8(real)), list(to_uint8(made)))
        captions += texts
        advance(len(texts))
    made_features, real_features = (torch.cat(features[is_real]) for is_real in (False, True))
    made_features, real_features = _scaled(made_features, real_features)
    metrics: dict[str, Any] = {"kernel_distance": kernel_distance(made_features, real_features)}
    if len(captions) >= 4:
        metrics["real_distance"] = kernel_distance(real_features[::2], real_features[1::2])
    if len(set(captions)) > 1:
        metrics["retrieval"] = retrieval(made_features, real_features, captions)
    metrics["motion"] = float(change[0] / change[1]) if change[1] > 0 else None
    metrics |= sharpness(*torch.cat(edges, dim=-1))
    if frechet is not None:
        metrics["fvd"] = frechet_distance(frechet, clips)
    protocol = clips.protocol | perceptual.protocol | {"features": FEATURES, "sampling": to_dict(model.sampling)}
    found = {name: value for name, value in metrics.items() if value is not None}
    return {"protocol": protocol, **found} | ({"skipped": clips.skipped} if clips.skipped else {})


@torch.no_grad()
def clip_features(tokenizer: Tokenizer, video: Tensor) -> Tensor:
    """Videos (B, 3, T, H, W) -> float64 (B, 3 D): mean and deviation of the tokenizer's latents over a clip, and how
    much they change from one latent frame to the next."""
    latents = tokenizer.encode_latents(video).double()  # (B, t, h, w, D)
    flat, steps = latents.flatten(1, 3), latents.diff(dim=1).abs()
    change = steps.mean((1, 2, 3)) if steps.shape[1] else torch.zeros_like(flat[:, 0])
    return torch.cat((flat.mean(1), flat.std(1, correction=0), change), 1).cpu()


def _scaled(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = real.mean(0), real.std(0, correction=0).clamp_min(1e-6)
    return (made - mean) / deviation, (real - mean) / deviation


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features (N, D), (M, D), with a cubic kernel."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / max(1, len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def retrieval(made: Tensor, real: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """For features (N, D) of clips in the order of their captions: whose nearest real clips have the own caption."""
    order = torch.cdist(made, real).argsort(1)[:, :5].tolist()
    hits = [[captions[other] == caption for other in row] for caption, row in zip(captions, order, strict=True)]
    same = [captions.count(caption) for caption in captions]
    return {
        "first": success_rate(sum(row[0] for row in hits), len(hits)),
        "five": success_rate(sum(any(row) for row in hits), len(hits)),
        "chance": float(np.mean(same)) / len(captions),
    }


def _check(components: Any, caption: str, clips: Clips) -> None:
    try:
        components.check_prompt(caption)
    except PhenakiError as error:
        raise PhenakiError(f"a caption of '{clips.source}' cannot be generated from: {error}") from error
