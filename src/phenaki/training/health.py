"""The health of a first-stage run: alarms while it trains, and the diagnosis of the one-clip test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.data.eval_samples import EvalSamples

# A healthy run of shapes-64 falls to a perplexity of 5 in its first steps; its batches use 3 % of the codes, or more.
_LEAST_PERPLEXITY, _LEAST_USED = 2.5, 0.01
_LEAST_CONTRAST = 0.03  # of the originals' contrast
_FLAT = 2 / 255  # of less contrast, in [0, 1], originals say nothing
_DEAD, _EXPLODED = 1e-9, 100.0  # of the gradient norm: absolute, and relative to the usual one
_SILENT = 1e-3  # a discriminator's loss, of a scale of about 1
_LEAST_GAIN, _STILL_RISING = 3.0, 0.3  # dB
_SETTLED = 100  # steps after which the usual gradient norm is known


_AGAINST_COLLAPSE = {
    "codebook": "tokenizer.quantizer.kind=fsq, or a larger tokenizer.quantizer.dead_code_threshold, or a lower "
    "optimizer.lr",
    "fsq": "a lower optimizer.lr, more warm-up (optimizer.warmup_steps), or more varied data",
}


class Alarm(NamedTuple):
    """A problem, how many steps in a row it must last to be reported, and the sentence, with the step's values."""

    name: str
    steps: int
    sentence: str


COLLAPSE = Alarm(
    "codebook collapse",
    50,
    "the perplexity of the codes is {perplexity:.3g} and {used:.2%} of them are used. Take {advice}",
)
FLAT_COLOUR = Alarm(
    "one flat colour",
    100,
    "the reconstructions have {contrast:.1%} of the originals' contrast. Take a lower optimizer.lr and less weight on "
    "other losses than l2, and try --overfit-one",
)
TOO_STRONG = Alarm(
    "discriminator too strong",
    200,
    "it classifies {discriminator_accuracy:.1%} correctly, at a loss of {discriminator_loss:.2g}, and gives no useful "
    "gradient. Take a lower discriminator.lr, a larger discriminator.penalty or a later discriminator.start",
)
DEAD = Alarm(
    "dead gradients",
    20,
    "the norm is {grad_norm:.2g}, and nothing is learned. Look for a loss of weight 0, and for saturated latents",
)
EXPLODING = Alarm(
    "exploding gradients",
    5,
    "the norm is {grad_norm:.3g}, and {usual:.3g} is usual. Take a lower optimizer.lr or optimizer.clip",
)


class Health:
    """Watches the updates of a run, and reports each problem once for as long as it lasts. quantizer: its kind."""

    def __init__(self, quantizer: str = "codebook") -> None:
        self._advice = _AGAINST_COLLAPSE.get(quantizer, _AGAINST_COLLAPSE["codebook"])
        self._lasted: dict[str, int] = {}
        self._log_norm, self._norms = 0.0, 0

    def check(self, metrics: Mapping[str, float], usable: float) -> dict[str, str]:
        """Metrics of a step, from `TokenizerTrainer.update` -> sentences to report now, by alarm.

        usable: the fraction of codes that can occur in the step, which is below 1 if it has fewer ids than codes.
        """
        norm = metrics["grad_norm"]
        if not math.isfinite(norm):  # the step was not taken
            return {}
        usual = math.exp(self._log_norm)
        exploding = self._norms >= _SETTLED and norm > _EXPLODED * usual
        if not exploding and norm > 0:
            self._norms += 1
            self._log_norm += (math.log(norm) - self._log_norm) / min(self._norms, _SETTLED)
        wrong = {
            COLLAPSE: metrics["perplexity"] < _LEAST_PERPLEXITY or metrics["used"] < _LEAST_USED * usable,
            FLAT_COLOUR: metrics["contrast"] < _LEAST_CONTRAST,
            TOO_STRONG: _too_strong(metrics),
            DEAD: norm < _DEAD,
            EXPLODING: exploding,
        }
        return {
            alarm.name: alarm.sentence.format_map({**metrics, "usual": usual, "advice": self._advice})
            for alarm, is_wrong in wrong.items()
            if self._is_due(alarm, is_wrong)
        }

    def _is_due(self, alarm: Alarm, wrong: bool) -> bool:
        self._lasted[alarm.name] = self._lasted.get(alarm.name, 0) + 1 if wrong else 0
        return self._lasted[alarm.name] == alarm.steps


def _too_strong(metrics: Mapping[str, float]) -> bool:
    if "discriminator_loss" not in metrics:
        return False
    return metrics["discriminator_accuracy"] == 1 or metrics["discriminator_loss"] < _SILENT


@torch.no_grad()
def contrast(made: Tensor, video: Tensor) -> Tensor:
    """Contrast of reconstructions relative to the originals (B, 3, T, H, W), a scalar: 0 is one flat colour per frame.

    It is the standard deviation of the pixels of a frame. 1 if the originals have no contrast.
    """
    original = _deviation(video)
    return torch.where(original > _FLAT, _deviation(made) / original.clamp_min(_FLAT), 1.0)


def _deviation(video: Tensor) -> Tensor:
    """Standard deviation over the pixels of a frame, mean over frames; torch's own takes nine times as long."""
    pixels = video.float().flatten(3)
    return (pixels - pixels.mean(-1, keepdim=True)).square().mean(-1).sqrt().mean()


def check_clips(clips: EvalSamples, size: tuple[int, int]) -> None:
    """Raise PhenakiError for clips other than uint8 (T, height, width, 3) of that size, or with values from 0 to 1."""
    for sample in clips.samples:
        shape, kind = tuple(sample.video.shape), sample.video.dtype
        if shape[1:] != (*size, 3) or kind != "uint8":
            raise PhenakiError(
                f"the clips have the shape {shape} and type {kind}, and training needs uint8 (T, H, W, 3) of "
                f"{size[0]}x{size[1]} pixels"
            )
    brightest = max(int(sample.video.max()) for sample in clips.samples)
    if brightest <= 1:
        raise PhenakiError(
            f"the brightest of all pixels is {brightest} of 255: these clips are black, or were written with values "
            "from 0 to 1. Write them with values from 0 to 255"
        )


def diagnosis(history: Sequence[Mapping[str, float]], alarms: Sequence[str]) -> str:
    """Why a network did not memorise one clip, in a sentence, from the metrics of each step and the alarms."""
    if alarms:
        return "; ".join(alarms)
    tenth = max(1, len(history) // 10)
    first, before, last = (
        _mean_psnr(part) for part in (history[:tenth], history[-2 * tenth : -tenth], history[-tenth:])
    )
    if last < first + _LEAST_GAIN:
        return (
            f"the PSNR hardly rose, from {first:.1f} to {last:.1f} dB. Take another optimizer.lr, and look at the "
            "weights of the losses"
        )
    if last > before + _STILL_RISING:
        return f"the PSNR was still rising, by {last - before:.1f} dB in the last tenth. Take a larger optimizer.lr"
    return (
        f"the PSNR stays at {last:.1f} dB. Take a lower optimizer.lr, or a wider network, or more codes: "
        "the bottleneck is too narrow"
    )


def _mean_psnr(history: Sequence[Mapping[str, float]]) -> float:
    return sum(metrics.get("psnr", 0.0) for metrics in history) / len(history)
