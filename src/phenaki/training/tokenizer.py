"""Training of the first stage: the losses of a step, the update, the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Autocast, autocast
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import EvalSamples, eval_samples
from phenaki.data.mixing import Batches
from phenaki.data.opening import check_has_clips
from phenaki.media.convert import to_float
from phenaki.perceptual import PerceptualNetworks, load_i3d, load_lpips
from phenaki.tokenizers import CViViTConfig, Tokenizer, TokenizerConfig, build_tokenizer, code_usage
from phenaki.tokenizers.base import Reconstruction
from phenaki.tokenizers.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
)
from phenaki.tokenizers.losses import (
    TokenizerLossConfig,
    code_losses,
    perceptual_losses,
    pixel_losses,
    sample_frames,
)
from phenaki.tokenizers.quantizers import Quantized
from phenaki.training.config import RunConfig
from phenaki.training.gradients import add_weighted
from phenaki.training.health import Health, check_clips, contrast, diagnosis
from phenaki.training.layers import prepare_layers
from phenaki.training.optim import OptimizerConfig, Optimizers, averaged
from phenaki.training.previews import evaluate_tokenizer
from phenaki.training.run import Run
from phenaki.training.sharding import gather_full

Metrics = dict[str, float]


@dataclass(frozen=True)
class TokenizerRecipe:
    """The complete configuration of a first-stage run."""

    tokenizer: TokenizerConfig = field(default_factory=CViViTConfig)
    data: DataConfig = field(kw_only=True)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True)
class TokenizerNetworks:
    """The tokenizer and what its losses need: a discriminator that learns too, and frozen perceptual networks."""

    tokenizer: Tokenizer
    discriminator: Discriminator | None
    perceptual: PerceptualNetworks


@dataclass(frozen=True)
class TokenizerBatch:
    """video: float (B, 3, T, H, W) in [0, 1]. frames: int64 (k,), the frames that losses of single frames see."""

    video: Tensor
    frames: Tensor

    def split(self, parts: int) -> list[TokenizerBatch]:
        """At most so many batches, for gradient accumulation."""
        return [replace(self, video=video) for video in self.video.chunk(parts)]

    def discriminator_input(self, video: Tensor, config: DiscriminatorConfig) -> Tensor:
        """What the discriminator scores of `video`, this one or its reconstruction."""
        return video[:, :, self.frames] if config.input == "frames" else video


def compute_loss(
    networks: TokenizerNetworks, batch: TokenizerBatch, recipe: TokenizerRecipe, autocast: Autocast, adversarial: bool
) -> tuple[dict[str, Tensor], Reconstruction]:
    """The weighted loss terms by name, float32 scalars, and the reconstruction."""
    with autocast():
        out = networks.tokenizer(batch.video)
    losses = pixel_losses(out.video, batch.video, recipe.loss)
    losses |= perceptual_losses(out.video, batch.video, batch.frames, networks.perceptual, recipe.loss)
    losses |= code_losses(out, batch.video, networks.tokenizer, recipe.loss)
    if adversarial:
        config, discriminator = recipe.discriminator, networks.discriminator
        weights = {name: weight.detach() for name, weight in discriminator.named_parameters()}  # it learns elsewhere
        with autocast():
            scores = functional_call(discriminator, weights, batch.discriminator_input(out.video, config))
        loss = adversarial_loss(scores, config.loss)
        if config.adaptive:
            loss = adaptive_weight(sum(losses.values()), loss, networks.tokenizer.last_layer) * loss
        losses["adversarial"] = recipe.loss.adversarial * loss
    return losses, out


def compute_discriminator_loss(
    networks: TokenizerNetworks,
    batch: TokenizerBatch,
    made: Tensor,
    recipe: TokenizerRecipe,
    autocast: Autocast,
    penalize: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """The discriminator's weighted loss terms by name, and its accuracy. made: reconstruction without gradient."""
    config, discriminator = recipe.discriminator, networks.discriminator
    fake, real = batch.discriminator_input(made, config), batch.discriminator_input(batch.video, config)
    with autocast():
        fake_scores, real_scores = discriminator(fake), discriminator(real)
    losses = {"discriminator_loss": discriminator_loss(real_scores, fake_scores, config.loss)}
    if penalize:
        losses["penalty"] = config.penalty_every * config.penalty * gradient_penalty(discriminator, real)
    return losses, ((real_scores > 0).float().mean() + (fake_scores < 0).float().mean()) / 2


def accumulate_gradients(
    networks: TokenizerNetworks,
    parts: Sequence[TokenizerBatch],
    recipe: TokenizerRecipe,
    autocast: Autocast,
    adversarial: bool,
) -> tuple[dict[str, Tensor], list[Reconstruction]]:
    """Forward and backward pass of the tokenizer for the parts of a batch. Returns the batch's losses by name, and the
    reconstruction of each part."""
    total, metrics, outputs = sum(len(part.video) for part in parts), {}, []
    for part in parts:
        losses, out = compute_loss(networks, part, recipe, autocast, adversarial)
        loss, fraction = sum(losses.values()), len(part.video) / total
        (fraction * loss).backward()
        add_weighted(metrics, {"loss": loss} | losses, fraction)
        outputs.append(Reconstruction(out.video.detach(), out.quantized))
    return metrics, outputs


def accumulate_discriminator_gradients(
    networks: TokenizerNetworks,
    parts: Sequence[TokenizerBatch],
    outputs: Sequence[Reconstruction],
    recipe: TokenizerRecipe,
    autocast: Autocast,
    penalize: bool,
) -> dict[str, Tensor]:
    """Forward and backward pass of the discriminator for the parts of a batch and their reconstructions."""
    total, metrics = sum(len(part.video) for part in parts), {}
    for part, out in zip(parts, outputs, strict=True):
        losses, accuracy = compute_discriminator_loss(networks, part, out.video, recipe, autocast, penalize)
        fraction = len(part.video) / total
        (fraction * sum(losses.values())).backward()
        add_weighted(metrics, losses | {"discriminator_accuracy": accuracy}, fraction)
    return metrics


def build_optimizers(networks: TokenizerNetworks, recipe: TokenizerRecipe) -> list[Optimizers]:
    """That of the tokenizer, and that of the discriminator if there is one."""
    steps, config = recipe.run.steps, recipe.discriminator
    optimizers = [Optimizers([networks.tokenizer], recipe.optimizer, steps)]
    if networks.discriminator is not None:
        own = replace(recipe.optimizer, kind="adamw", lr=config.lr, betas=config.betas)
        optimizers.append(Optimizers([networks.discriminator], own, steps))
    return optimizers


class TokenizerTrainer:
    """The networks of a first-stage run, their optimizers and moving average, and the update of them all.

    `parts`: what a checkpoint holds; the frozen networks are not in it.
    """

    def __init__(self, recipe: TokenizerRecipe, run: Run):
        self.recipe, self.run = recipe, run
        self.autocast = partial(autocast, run.device, recipe.run.precision)
        with run.initializing():
            tokenizer = build_tokenizer(recipe.tokenizer).to(run.device)
            discriminator = Discriminator(recipe.discriminator).to(run.device) if recipe.loss.adversarial else None
        self.networks = TokenizerNetworks(tokenizer, discriminator, load_perceptual(recipe.loss, run.device))
        self.tokenizer, self.discriminator = tokenizer, discriminator
        self.ema = averaged(tokenizer, recipe.optimizer.ema_decay)
        prepare_layers([tokenizer], recipe.run, run.device, [self.ema])
        self.optimizers, *others = build_optimizers(self.networks, recipe)
        self.reducer = run.gradient_reducer(self.optimizers.parameters, recipe.optimizer.accumulate)
        self.parts = {"tokenizer": tokenizer, "ema": self.ema, "optimizers": self.optimizers}
        for optimizers in others:
            self.discriminator_optimizers = optimizers
            self.discriminator_reducer = run.gradient_reducer(optimizers.parameters, recipe.optimizer.accumulate)
            self.parts |= {"discriminator": discriminator, "discriminator_optimizers": optimizers}

    def update(self, video: Tensor, step: int) -> Metrics:
        """One update with a batch, float (B, 3, T, H, W) in [0, 1] on the run's device. Returns the metrics: losses and
        gradient norm only, if one of these is not finite and the step was skipped."""
        recipe, networks, rng = self.recipe, self.networks, self.run.rng(step)
        adversarial = self.discriminator is not None and step >= recipe.discriminator.start
        batch = TokenizerBatch(video, sample_frames(video.shape[2], recipe.loss, rng))
        parts = batch.split(recipe.optimizer.accumulate)

        losses, outputs = accumulate_gradients(networks, parts, recipe, self.autocast, adversarial)
        statistics = [self.tokenizer.quantizer.statistics(out.quantized) for out in outputs]
        self.reducer.finish(losses["loss"])
        metrics = {name: loss.item() for name, loss in losses.items()}
        metrics["grad_norm"] = self.optimizers.update(step)
        if not math.isfinite(metrics["grad_norm"]):  # no process took the step
            return metrics
        metrics["restarted"] = self._update_quantizer(statistics, outputs[-1].quantized, rng)
        self.ema.update_parameters(self.tokenizer)

        if adversarial:
            penalize = bool(recipe.discriminator.penalty) and step % recipe.discriminator.penalty_every == 0
            losses = accumulate_discriminator_gradients(networks, parts, outputs, recipe, self.autocast, penalize)
            self.discriminator_reducer.finish(losses["discriminator_loss"])
            metrics |= {name: loss.item() for name, loss in losses.items()}
            metrics["discriminator_grad_norm"] = self.discriminator_optimizers.update(step)
            metrics["discriminator_lr"] = self.discriminator_optimizers.lr(step)
        return metrics | self._describe(outputs, video) | {"lr": self.optimizers.lr(step)}

    def _update_quantizer(
        self, statistics: Sequence[tuple[Tensor, ...]], last: Quantized, rng: torch.Generator
    ) -> float:
        """What the quantizer learns without gradients, from the statistics of all processes."""
        quantizer = self.tokenizer.quantizer
        summed = tuple(map(sum, zip(*statistics, strict=True)))
        self.run.processes.all_reduce(summed)
        reset_codes = quantizer.update(summed, last, rng)
        self.run.processes.broadcast(quantizer.state_dict().values())  # each process resets codes from its own batch
        return reset_codes

    def _describe(self, outputs: Sequence[Reconstruction], video: Tensor) -> Metrics:
        made = torch.cat([out.video for out in outputs]).float()
        ids = torch.cat([out.quantized.ids for out in outputs])
        perplexity, used = code_usage(ids, self.tokenizer.vocab_size)
        psnr = -10 * math.log10(max(1e-10, (made - video).square().mean().item()))
        return {"perplexity": perplexity, "used": used, "contrast": contrast(made, video), "psnr": psnr}


def load_perceptual(config: TokenizerLossConfig, device: torch.device) -> PerceptualNetworks:
    """The frozen networks of the perceptual losses. Raises PhenakiError if their weights are missing."""
    return PerceptualNetworks(
        load_lpips(config.lpips_weights or None) if config.lpips else None,
        load_i3d(config.i3d_weights or None) if config.i3d else None,
    ).to(device)


def train_tokenizer(recipe: TokenizerRecipe, folder: str | Path, resume: str = "auto", overwrite: bool = False) -> Path:
    """Train a tokenizer, or resume the run in `folder`. Returns the folder of the averaged weights.

    `resume` and `overwrite` are those of `Run`.
    """
    clips = _check_clips(recipe)
    with Run(folder, recipe.run, recipe, resume=resume, overwrite=overwrite) as run:
        trainer, health = TokenizerTrainer(recipe, run), Health()
        period = trainer.tokenizer.patch[0]
        data = Batches(recipe.data, period, run.rank, run.world_size, captions=False, on_bad=run.skip_sample)
        parts = trainer.parts | {"data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            video = to_float(run.next(data)["video"]).to(run.device)
            metrics = trainer.update(video, step)
            run.log(**metrics)
            _raise_alarms(run, health, trainer.tokenizer, video, metrics)
            if run.completes(recipe.run.picture_every):
                averaged_tokenizer = gather_full(trainer.ema.module)  # all processes call
                if run.is_main:
                    metrics, preview = evaluate_tokenizer(averaged_tokenizer, clips)
                    run.record(metrics)
                    run.show("reconstruction", preview, recipe.tokenizer.fps)
                    save_component(averaged_tokenizer, run.folder / "tokenizer")
    return run.folder / "tokenizer"


def overfit_one(recipe: TokenizerRecipe, folder: str | Path, steps: int = 1000, goal: float = 35.0) -> str:
    """Train on one fixed clip in a new folder: a setup that cannot memorise it will learn nothing.

    Takes the recipe's losses and peak learning rate, with a short warm-up and no decay. Returns a sentence with the
    step that reached `goal` dB of PSNR. Raises PhenakiError with a diagnosis if `steps` were not enough.
    """
    if (Path(folder) / "recipe.json").exists():
        raise PhenakiError(f"the folder '{folder}' already holds a run: name a new one for --overfit-one")
    clip = _check_clips(recipe).samples[0].video
    optimizer = replace(recipe.optimizer, warmup_steps=min(10, recipe.optimizer.warmup_steps), final_lr=1.0)
    run_config = replace(recipe.run, steps=steps, checkpoint_every=steps)
    recipe = replace(recipe, optimizer=replace(optimizer, accumulate=1), run=run_config)
    with Run(folder, recipe.run, recipe) as run:
        trainer, health = TokenizerTrainer(recipe, run), Health()
        video = to_float(clip).to(run.device)
        history: list[Metrics] = []
        alarms: list[str] = []
        for step in run.steps(trainer.parts):
            history.append(trainer.update(video, step))
            run.log(**history[-1])
            alarms += _raise_alarms(run, health, trainer.tokenizer, video, history[-1])
            if history[-1].get("psnr", 0.0) >= goal:
                return f"one clip was memorised: {goal:g} dB at step {step + 1}"
    if len(history) < steps:
        raise KeyboardInterrupt
    best = max(metrics.get("psnr", 0.0) for metrics in history)
    raise PhenakiError(
        f"one clip was not memorised: {best:.1f} dB instead of {goal:g} in {steps} steps; {diagnosis(history, alarms)}"
    )


def _check_clips(recipe: TokenizerRecipe) -> EvalSamples:
    """The clips for evaluation. Raises PhenakiError for a recipe whose parts, or clips, do not fit."""
    recipe.data.check_tokenizer(recipe.tokenizer.image_size, recipe.tokenizer.fps, recipe.tokenizer.patch)
    if recipe.loss.adversarial:
        for size in recipe.data.sizes:
            recipe.discriminator.check_size(*size)
    if recipe.run.prompts:
        raise PhenakiError(f"run.prompts '{recipe.run.prompts}': a tokenizer reads no prompts; leave it empty")
    for source in recipe.data.uris:
        check_has_clips(source)
    clips = eval_samples(recipe.data, captions=False)
    check_clips(clips, recipe.data.image_size)
    return clips


def _raise_alarms(run: Run, health: Health, tokenizer: Tokenizer, video: Tensor, metrics: Metrics) -> list[str]:
    """Report the problems of this step; returns them as sentences."""
    ids = len(video) * math.prod(tokenizer.grid(*video.shape[2:]))
    alarms = health.check(metrics, min(1.0, ids / tokenizer.vocab_size))
    for name, sentence in alarms.items():
        run.alarm(name, sentence)
    return [f"{name}: {sentence}" for name, sentence in alarms.items()]
