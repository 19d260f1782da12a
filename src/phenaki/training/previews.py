"""What a run shows of its networks while it trains: metrics on fixed clips, and clips to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from phenaki.conditioning import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Precision, autocast
from phenaki.data.batch import collate
from phenaki.data.eval_samples import EvalSamples
from phenaki.evaluation.pixels import psnr
from phenaki.generators import Components
from phenaki.generators.masking import masked_count, random_mask
from phenaki.media.convert import Frames, to_float, to_uint8
from phenaki.sampling import SamplingConfig, Scene, rollout
from phenaki.tokenizers import Tokenizer, code_usage
from phenaki.training.inputs import Inputs
from phenaki.training.masking import make_batch, masked_logits
from phenaki.training.track import Preview

Checker = Callable[[Frames, str], Any]
"""A clip uint8 (T, H, W, 3) and its caption -> a report: whether it is `fulfilled`, and `findings`, one per claim."""
_MAX_PROMPTS = 32  # drawn in one batch


@torch.no_grad()
def evaluate_tokenizer(tokenizer: Tokenizer, clips: EvalSamples) -> tuple[dict[str, float], Preview]:
    """PSNR in dB (mean over clips; of first and other frames) and code usage, and clips beside reconstructions."""
    originals = np.stack([sample.video for sample in clips.samples])
    video = to_float(originals).to(next(tokenizer.parameters()).device)
    ids = tokenizer.encode(video)
    decoded = tokenizer.decode(ids)
    error = (decoded - video).square()
    perplexity, used = code_usage(ids, tokenizer.vocab_size)
    metrics = {
        f"{clips.name}/psnr": float(np.mean(psnr(error))),
        f"{clips.name}/psnr_first": float(np.mean(psnr(error[:, :, :1]))),
        f"{clips.name}/perplexity": perplexity,
        f"{clips.name}/used": used,
    }
    if video.shape[2] > 1:
        metrics[f"{clips.name}/psnr_rest"] = float(np.mean(psnr(error[:, :, 1:])))
    rows = [clip for pair in zip(originals[:6], to_uint8(decoded[:6]), strict=True) for clip in pair]
    return metrics, Preview(rows, ["original", "reconstruction"] * (len(rows) // 2))


@torch.no_grad()
def evaluate_generator(
    model: Components,
    clips: EvalSamples,
    inputs: Inputs,
    sampling: SamplingConfig,
    checker: Checker | None,
    precision: Precision,
) -> tuple[dict[str, float], Preview | None]:
    """Metrics on clips and their captions, and samples if there are networks to make them.

    The loss is the cross-entropy of training, without weights, smoothing and text dropping, at mask ratios from 1 to
    almost 0.
    """
    batch, device = collate(clips.samples), model.device
    ids = inputs.ids(batch, device)
    free = torch.ones(ids.shape, dtype=torch.bool)
    counts = masked_count(torch.linspace(0, 0.95, len(ids)), free.flatten(1).sum(1))
    masked = random_mask(free, counts, torch.Generator().manual_seed(0))
    with autocast(device, precision):
        text = inputs.text(batch, device)
        text = text if isinstance(text, Text) else model.text_encoder(text)
        (part,) = make_batch(ids, text, (free, masked), torch.zeros(len(ids), dtype=torch.bool))
        logits = masked_logits(model.generator, text, part)
    losses = F.cross_entropy(logits.float(), part.targets, reduction="none")
    first = part.where % ids[0].numel() < ids[0, 0].numel()
    metrics = {f"{clips.name}/loss_first": losses[first].mean().item()}
    if ids.shape[1] > 1:
        metrics[f"{clips.name}/loss_rest"] = losses[~first].mean().item()
    if model.tokenizer is None or model.text_encoder is None:
        return metrics, None
    sampled, preview = preview_captions(model, clips, sampling, checker)
    return metrics | sampled, preview


def preview_captions(
    model: Components, clips: EvalSamples, sampling: SamplingConfig, checker: Checker | None
) -> tuple[dict[str, float], Preview]:
    """Samples of the clips' captions, and, with a checker of the world that they are from, the rates of prompts and of
    single claims that are fulfilled."""
    captions, metrics = [sample.caption for sample in clips.samples], {}
    samples, labels = sample_clips(model, captions, sampling), captions
    if clips.checkable and checker is not None:
        reports = [checker(clip, caption) for clip, caption in zip(samples, captions, strict=True)]
        metrics[f"{clips.name}/fulfilled"] = float(np.mean([report.fulfilled for report in reports]))
        claims = [finding.fulfilled for report in reports for finding in report.findings]
        metrics[f"{clips.name}/claims_fulfilled"] = float(np.mean(claims))
        labels = [f"{'+' if report.fulfilled else '-'} {text}" for report, text in zip(reports, captions, strict=True)]
    return metrics, Preview(samples[:12], labels[:12])


def preview_prompts(model: Components, prompts: Sequence[str], sampling: SamplingConfig) -> Preview:
    return Preview(sample_clips(model, prompts, sampling), list(prompts))


@torch.no_grad()
def sample_clips(model: Components, prompts: Sequence[str], sampling: SamplingConfig) -> list[Frames]:
    """A clip of each prompt, uint8 (T, H, W, 3), always from the same noise."""
    rng = torch.Generator(model.device).manual_seed(0)
    scenes = [Scene(tuple(prompts), model.generator.config.frames)]
    pieces = rollout(model, scenes, sampling, rng, samples=len(prompts))
    return list(to_uint8(torch.cat(list(pieces), dim=2)))


def read_prompts(path: str, inputs: Inputs) -> list[str]:
    """The prompts in the file `run.prompts`, one per line; empty lines and lines that begin with # are skipped.

    Raises PhenakiError for a file that is missing or holds none or too many, for prompts that the text encoder cannot
    read, and if there are no networks to generate from them.
    """
    if not path:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PhenakiError(f"run.prompts '{path}' cannot be read as text: {error}") from error
    stripped = [line.strip() for line in lines]
    prompts = [line for line in stripped if line and not line.startswith("#")]
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        raise PhenakiError(
            f"run.prompts '{path}' holds {len(prompts)} prompts, one per line, and they are generated in one batch: "
            f"give it 1 to {_MAX_PROMPTS}"
        )
    if inputs.tokenizer is None or not (inputs.learns_text or inputs.text_encoder):
        raise PhenakiError(
            f"run.prompts '{path}': token shards replace the tokenizer and the text encoder in training, but not to "
            "generate from prompts; name both (--tokenizer, --text-encoder), or no prompts"
        )
    check_prompt = inputs.check_caption or inputs.text_encoder.config.check
    for prompt in prompts:
        check_prompt(prompt)
    return prompts
