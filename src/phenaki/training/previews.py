"""What a run shows of its networks while it trains: metrics on fixed clips, and clips to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from phenaki.core.errors import PhenakiError
from phenaki.core.precision import autocast
from phenaki.core.reading import read_regular
from phenaki.data.batch import collate
from phenaki.data.eval_samples import EvalSamples, eval_samples
from phenaki.evaluation.pixels import psnr
from phenaki.generators import Components
from phenaki.generators.masking import masked_count, random_mask
from phenaki.media.convert import Frames, to_float, to_uint8
from phenaki.sampling import SamplingConfig, Scene, rollout
from phenaki.tokenizers import Tokenizer, code_usage
from phenaki.training.inputs import Inputs
from phenaki.training.masking import make_micro_batches, masked_logits
from phenaki.training.run import Run
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
    perplexity, used = map(float, code_usage(ids, tokenizer.vocab_size, tokenizer.num_codebooks))
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


class Previews:
    """What a run of the second stage shows: metrics on fixed clips, samples of their captions, and of `run.prompts`.

    Raises PhenakiError for prompts that cannot be generated from, and for data without a usable clip.
    """

    def __init__(self, recipe: Any, inputs: Inputs, checker: Checker | None):
        data = recipe.data
        self._clips = eval_samples(data, captions=inputs.captions, check_caption=inputs.check_caption)
        self._prompts = read_prompts(recipe.run.prompts, inputs)
        self._inputs, self._checker, self._precision = inputs, checker, recipe.run.precision

    @property
    def samples(self) -> list[Any]:
        """The fixed samples, with their captions."""
        return self._clips.samples

    def evaluate(self, run: Run, model: Components, sampling: SamplingConfig) -> dict[str, float]:
        """Metrics of a generator; with the networks that samples need, samples are shown too."""
        metrics = self.losses(model)
        if model.tokenizer is None or model.text_encoder is None:
            return metrics
        return metrics | self.show(run, model, sampling)

    def losses(self, model: Components) -> dict[str, float]:
        """The cross-entropy of training, without weights, smoothing and text dropping, at mask ratios from 1 to almost
        0: of the first frame, and of the others."""
        clips, inputs, device = self._clips, self._inputs, model.device
        batch = collate(clips.samples)
        ids = inputs.ids(batch, device)
        free = torch.ones(ids.shape, dtype=torch.bool)
        counts = masked_count(torch.linspace(0, 0.95, len(ids)), free.flatten(1).sum(1))
        masked = random_mask(free, counts, torch.Generator().manual_seed(0))
        with torch.no_grad(), autocast(device, self._precision):
            text, none = inputs.text(batch, model.text_encoder, device), torch.zeros(len(ids), dtype=torch.bool)
            others = inputs.history(batch) | ({"clean": ids} if model.generator.has_cache else {})
            starts = inputs.caption_starts(batch)
            (micro_batch,) = make_micro_batches(ids, text, (free, masked), none, caption_starts=starts, **others)
            logits = masked_logits(model.generator, micro_batch.encode_text(model.text_encoder), micro_batch)
        losses = F.cross_entropy(logits.float(), micro_batch.targets, reduction="none")
        first = micro_batch.where % ids[0].numel() < ids[0, 0].numel()
        metrics = {f"{clips.name}/loss_first": losses[first].mean().item()}
        if ids.shape[1] > 1:
            metrics[f"{clips.name}/loss_rest"] = losses[~first].mean().item()
        return metrics

    def show(self, run: Run, model: Components, sampling: SamplingConfig) -> dict[str, float]:
        """Show samples of the clips' captions and of the prompts. Returns, with a checker of the world that the clips
        are from, the rates of prompts and of single claims that are fulfilled."""
        clips, checker, fps, metrics = self._clips, self._checker, self._inputs.spec.fps, {}
        labels = [sample.caption for sample in clips.samples]
        samples = sample_clips(model, labels, sampling)
        if clips.checkable and checker is not None:
            reports = [checker(clip, caption) for clip, caption in zip(samples, labels, strict=True)]
            claims = [finding.fulfilled for report in reports for finding in report.findings]
            metrics[f"{clips.name}/fulfilled"] = float(np.mean([report.fulfilled for report in reports]))
            metrics[f"{clips.name}/claims_fulfilled"] = float(np.mean(claims))
            labels = [
                f"{'+' if report.fulfilled else '-'} {text}" for report, text in zip(reports, labels, strict=True)
            ]
        run.show("samples", Preview(samples[:12], labels[:12]), fps)
        if self._prompts:
            run.show("prompts", Preview(sample_clips(model, self._prompts, sampling), self._prompts), fps)
        return metrics


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
        lines = read_regular(path).decode("utf-8-sig").splitlines()
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
