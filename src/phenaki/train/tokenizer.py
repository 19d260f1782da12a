"""Training of the first stage. One update, one screen: forward, each loss by name, backward, the optimizers' step."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from phenaki.data.config import DataConfig
from phenaki.data.mix import Batches
from phenaki.data.places import check_holds_clips
from phenaki.data.shown import Shown, shown
from phenaki.errors import PhenakiError
from phenaki.evaluate.pixels import psnr
from phenaki.hub import kind_of, save_component
from phenaki.perceptual import Judges, load_i3d, load_lpips
from phenaki.precision import autocast
from phenaki.tokenizer import CViViTConfig, Tokenizer, TokenizerConfig, build_tokenizer, code_usage
from phenaki.tokenizer.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
)
from phenaki.tokenizer.losses import (
    TokenizerLossConfig,
    code_losses,
    perceptual_losses,
    pixel_losses,
    seen_frames,
)
from phenaki.train.health import Health, check_clips, contrast, verdict
from phenaki.train.layers import prepare_layers
from phenaki.train.optim import OptimizerConfig, Optimizers, averaged
from phenaki.train.run import Run, RunConfig
from phenaki.train.sharding import whole
from phenaki.train.track import Drawn
from phenaki.video import to_float, to_uint8

Figures = dict[str, float]


@dataclass(frozen=True)
class TokenizerRecipe:
    """All that decides a first-stage run."""

    tokenizer: TokenizerConfig = field(default_factory=CViViTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def discriminator_optimizer(recipe: TokenizerRecipe) -> OptimizerConfig:
    """That of the tokenizer, with what the discriminator has of its own."""
    own = {"kind": "adamw", "lr": recipe.discriminator.lr, "betas": recipe.discriminator.betas}
    return replace(recipe.optimizer, **own)


class TokenizerTraining:
    """The networks of a first-stage run, their optimizers, and one update of them.

    `parts`: what a checkpoint holds. The frozen judges of the losses are in neither.
    """

    def __init__(self, recipe: TokenizerRecipe, run: Run):
        self.recipe, self.run = recipe, run
        with run.initializing():
            self.tokenizer = build_tokenizer(recipe.tokenizer)
            self.discriminator = Discriminator(recipe.discriminator) if recipe.loss.adversarial else None
        self.tokenizer.to(run.device)
        self.judges = load_judges(recipe.loss, run.device)
        self.ema = averaged(self.tokenizer, recipe.optimizer.ema_decay)
        prepare_layers([self.tokenizer], recipe.run, run.device, [self.ema])
        self.optimizers = Optimizers([self.tokenizer], recipe.optimizer, recipe.run.steps)
        self.averaging = run.averaging(self.optimizers.parameters, recipe.optimizer.accumulate)
        self.parts = {"tokenizer": self.tokenizer, "ema": self.ema, "optimizers": self.optimizers}
        if self.discriminator is not None:
            self.discriminator.to(run.device)
            config = discriminator_optimizer(recipe)
            self.discriminator_optimizers = Optimizers([self.discriminator], config, recipe.run.steps)
            own = self.discriminator_optimizers.parameters
            self.discriminator_averaging = run.averaging(own, recipe.optimizer.accumulate)
            self.parts["discriminator"] = self.discriminator
            self.parts["discriminator_optimizers"] = self.discriminator_optimizers

    def update(self, video: Tensor, step: int) -> dict[str, float]:
        """One update with a batch, float (B, 3, T, H, W) in [0, 1], on the run's device. Returns what to record: the
        losses and the gradients' norm alone where one of these is not finite, and the step is not taken."""
        recipe, run, tokenizer, quantizer = self.recipe, self.run, self.tokenizer, self.tokenizer.quantizer
        adversarial = self.discriminator is not None and step >= recipe.discriminator.start
        rng = run.rng(step)
        seen = seen_frames(video.shape[2], recipe.loss, rng)
        figures: Figures = defaultdict(float)
        made, ids, statistics = [], [], []

        for part in video.chunk(recipe.optimizer.accumulate):
            with autocast(run.device, recipe.run.precision):
                out = tokenizer(part)
            losses = pixel_losses(out.video, part, recipe.loss)
            losses |= perceptual_losses(out.video, part, seen, self.judges, recipe.loss)
            losses |= code_losses(out, part, tokenizer, recipe.loss)
            if adversarial:
                losses["adversarial"] = self._adversarial(out.video, seen, sum(losses.values()))
            loss, share = sum(losses.values()), len(part) / len(video)
            (share * loss).backward()
            _add(figures, {"loss": loss} | losses, share)
            made.append(out.video.detach())
            ids.append(out.quantized.ids)
            statistics.append(quantizer.statistics(out.quantized))

        self.averaging.finish(figures["loss"])
        figures["grad_norm"] = self.optimizers.update(step)
        if not math.isfinite(figures["grad_norm"]):  # the step was not taken, in no process
            return figures
        summed = tuple(map(sum, zip(*statistics, strict=True)))
        run.sum_over_processes(summed)
        figures["restarted"] = quantizer.update(summed, out.quantized, rng)
        run.take_from_main(quantizer.state_dict().values())  # each process restarts by its own batch
        self.ema.update_parameters(tokenizer)
        if adversarial:
            figures |= self._update_discriminator(made, video, seen, step)

        made = torch.cat(made).float()
        figures["perplexity"], figures["used"] = code_usage(torch.cat(ids), tokenizer.vocab_size)
        figures["contrast"] = contrast(made, video)
        figures["psnr"] = -10 * math.log10(max(1e-10, (made - video).square().mean().item()))
        figures["lr"] = self.optimizers.lr(step)
        if adversarial:
            figures["discriminator_lr"] = self.discriminator_optimizers.lr(step)
        return figures

    def _adversarial(self, made: Tensor, seen: Tensor, others: Tensor) -> Tensor:
        """What the tokenizer hears of its reconstructions (B, 3, T, H, W), weighted; `others`: its other losses."""
        config = self.recipe.discriminator
        with autocast(self.run.device, self.recipe.run.precision):
            weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
            scores = functional_call(self.discriminator, weights, self._shown(made, seen))  # it learns elsewhere
        loss = adversarial_loss(scores, config.loss)
        weight = adaptive_weight(others, loss, self.tokenizer.last_layer) if config.adaptive else 1.0
        return self.recipe.loss.adversarial * weight * loss

    def _update_discriminator(self, made: list[Tensor], video: Tensor, seen: Tensor, step: int) -> Figures:
        """The discriminator's update: `made`, the reconstructions of the parts of `video`, come without gradient."""
        config, figures = self.recipe.discriminator, defaultdict(float)
        for fake, real in zip(made, video.chunk(self.recipe.optimizer.accumulate), strict=True):
            fake, real = self._shown(fake, seen), self._shown(real, seen)
            with autocast(self.run.device, self.recipe.run.precision):
                fake_scores, real_scores = self.discriminator(fake), self.discriminator(real)
            losses = {"discriminator_loss": discriminator_loss(real_scores, fake_scores, config.loss)}
            if config.penalty and step % config.penalty_every == 0:
                penalty = gradient_penalty(self.discriminator, real)
                losses["penalty"] = config.penalty_every * config.penalty * penalty
            share = len(real) / len(video)
            (share * sum(losses.values())).backward()
            right = ((real_scores > 0).float().mean() + (fake_scores < 0).float().mean()) / 2
            _add(figures, losses | {"discriminator_accuracy": right}, share)
        self.discriminator_averaging.finish(figures["discriminator_loss"])
        figures["discriminator_grad_norm"] = self.discriminator_optimizers.update(step)
        return figures

    def _shown(self, video: Tensor, seen: Tensor) -> Tensor:
        """The frames that the discriminator sees: one of clips sees them all."""
        return video[:, :, seen] if self.recipe.discriminator.sees == "frames" else video


def _add(figures: Figures, terms: dict[str, Tensor], share: float) -> None:
    """Add the terms of a part that is such a share of the batch."""
    for name, term in terms.items():
        figures[name] += share * term.item()


def load_judges(config: TokenizerLossConfig, device: torch.device) -> Judges:
    """The frozen networks that the losses ask. Raises PhenakiError where their weights are missing."""
    return Judges(
        load_lpips(config.lpips_weights or None) if config.lpips else None,
        load_i3d(config.i3d_weights or None) if config.i3d else None,
    ).to(device)


def train_tokenizer(recipe: TokenizerRecipe, folder: str | Path, resume: str = "auto", overwrite: bool = False) -> Path:
    """Train a tokenizer, or go on where the run in `folder` stopped. Returns the folder of the averaged weights.

    `resume` and `overwrite` are those of `Run`.
    """
    clips = _clips(recipe)
    with Run(folder, recipe.run, recipe, resume=resume, overwrite=overwrite) as run:
        training, health = TokenizerTraining(recipe, run), Health()
        period = training.tokenizer.patch[0]
        data = Batches(recipe.data, period, run.rank, run.world_size, captions=False, on_bad=run.leave_out)
        parts = training.parts | {"data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            video = to_float(run.next(data)["video"]).to(run.device)
            figures = training.update(video, step)
            run.log(**figures)
            _raise_alarms(run, health, training.tokenizer, video, figures)
            if run.completes(recipe.run.picture_every):
                _show(run, recipe, clips, whole(training.ema.module))
    return run.folder / "tokenizer"


def _show(run: Run, recipe: TokenizerRecipe, clips: Shown, tokenizer: Tokenizer) -> None:
    """Record what a tokenizer makes of clips, and save it; the main process alone does."""
    if not run.is_main:
        return
    test, picture = look(tokenizer, clips)
    run.record(test)
    run.show("reconstruction", picture, recipe.tokenizer.fps)
    save_component(tokenizer, run.folder / "tokenizer", kind_of(tokenizer, "tokenizer"), recipe.tokenizer)


def overfit_one(recipe: TokenizerRecipe, folder: str | Path, steps: int = 1000, goal: float = 35.0) -> str:
    """Train on one fixed clip in a new folder: whoever cannot learn that by heart learns nothing.

    The recipe's losses and peak learning rate, without long warm-up and without decay. Returns a sentence about the
    step at which `goal` dB of PSNR were reached. Raises PhenakiError with what is wrong if `steps` were not enough.
    """
    if (Path(folder) / "recipe.json").exists():
        raise PhenakiError(f"the folder '{folder}' holds a run: name a new one for --overfit-one")
    clip = _clips(recipe).samples[0].video
    optimizer = replace(recipe.optimizer, warmup_steps=min(10, recipe.optimizer.warmup_steps), final_lr=1.0)
    run_config = replace(recipe.run, steps=steps, checkpoint_every=steps)
    recipe = replace(recipe, optimizer=replace(optimizer, accumulate=1), run=run_config)
    with Run(folder, recipe.run, recipe) as run:
        training, health = TokenizerTraining(recipe, run), Health()
        video = to_float(clip).to(run.device)
        history: list[Figures] = []
        alarms: list[str] = []
        for step in run.steps(training.parts):
            history.append(training.update(video, step))
            run.log(**history[-1])
            alarms += _raise_alarms(run, health, training.tokenizer, video, history[-1])
            if history[-1]["psnr"] >= goal:
                return f"one clip was learned by heart: {goal:g} dB at step {step + 1}"
    if len(history) < steps:
        raise KeyboardInterrupt
    best = max(figures["psnr"] for figures in history)
    wrong = verdict(history, alarms)
    raise PhenakiError(f"one clip was not learned by heart: {best:.1f} dB and not {goal:g} in {steps} steps; {wrong}")


def _clips(recipe: TokenizerRecipe) -> Shown:
    """The clips by which a run is judged. Raises PhenakiError for a recipe whose parts, or clips, do not fit."""
    recipe.data.check_tokenizer(recipe.tokenizer.image_size, recipe.tokenizer.fps, recipe.tokenizer.patch)
    if recipe.loss.adversarial:
        for size in recipe.data.sizes:
            recipe.discriminator.check_size(*size)
    if recipe.run.prompts:
        raise PhenakiError(f"run.prompts '{recipe.run.prompts}' are for a generator: a tokenizer reads none")
    for place in recipe.data.places:
        check_holds_clips(place)
    clips = shown(recipe.data, captions=False)
    check_clips(clips, recipe.data.image_size)
    return clips


def _raise_alarms(run: Run, health: Health, tokenizer: Tokenizer, video: Tensor, figures: Figures) -> list[str]:
    """Say what goes wrong with the step now running; the names of the alarms."""
    ids = len(video) * math.prod(tokenizer.grid(*video.shape[2:]))
    alarms = health.check(figures, min(1.0, ids / tokenizer.vocab_size))
    for name, sentence in alarms.items():
        run.alarm(name, sentence)
    return [f"{name}: {sentence}" for name, sentence in alarms.items()]


@torch.no_grad()
def look(tokenizer: Tokenizer, clips: Shown) -> tuple[dict[str, float], Drawn]:
    """Figures on clips (PSNR in dB, mean over clips; of first and other frames; code usage), and some of the clips
    beside their reconstructions."""
    originals = np.stack([sample.video for sample in clips.samples])
    video = to_float(originals).to(next(tokenizer.parameters()).device)
    ids = tokenizer.encode(video)
    decoded = tokenizer.decode(ids)
    error = (decoded - video).square()
    perplexity, used = code_usage(ids, tokenizer.vocab_size)
    figures = {
        f"{clips.name}/psnr": float(np.mean(psnr(error))),
        f"{clips.name}/psnr_first": float(np.mean(psnr(error[:, :, :1]))),
        f"{clips.name}/perplexity": perplexity,
        f"{clips.name}/used": used,
    }
    if video.shape[2] > 1:
        figures[f"{clips.name}/psnr_rest"] = float(np.mean(psnr(error[:, :, 1:])))
    rows = [clip for pair in zip(originals[:6], to_uint8(decoded[:6]), strict=True) for clip in pair]
    return figures, Drawn(rows, ["original", "reconstruction"] * (len(rows) // 2))
