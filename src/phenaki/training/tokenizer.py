"""Training of the first stage: the losses of a step, the update, the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Autocast, is_on_cpu, to_device
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import EvalSamples, eval_samples
from phenaki.data.loader import Batches
from phenaki.data.opening import check_has_clips
from phenaki.media.convert import to_float, to_uint8
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
from phenaki.training.gradients import accumulate_gradients
from phenaki.training.health import Health, check_clips, contrast, diagnosis
from phenaki.training.layers import prepare_layers
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.previews import evaluate_tokenizer
from phenaki.training.run import Metrics, Run, read_metrics
from phenaki.training.track import Preview
from phenaki.training.trainer import Networks, Trainer

DISCRIMINATOR = "discriminator_optimizers"
_PROOF_EVERY = 5  # steps, once one clip seems to be memorised
_FIRST_CLIPS = 256  # for weights that start from data
_LEAST_CARRIED = 6.0  # dB that shuffled codes must cost a memorised clip


@dataclass(frozen=True)
class TokenizerRecipe:
    """The complete configuration of a first-stage run. `freeze_encoder`: only the decoder learns, so that ids stay
    those of the tokenizer that the run begins with, and generators trained on them stay valid."""

    tokenizer: TokenizerConfig = field(default_factory=CViViTConfig)
    data: DataConfig = field(kw_only=True)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    freeze_encoder: bool = False


@dataclass(frozen=True)
class TokenizerNetworks:
    """The tokenizer and what its losses need: a discriminator that learns too, and frozen perceptual networks."""

    tokenizer: Tokenizer
    perceptual: PerceptualNetworks
    discriminator: Discriminator | None = None


@dataclass(frozen=True)
class TokenizerBatch:
    """A batch or a micro-batch of it. video: float (B, 3, T, H, W) in [0, 1]. frames: int64 (k,), the frames that
    losses of single frames see. fraction: of the clips of the batch."""

    video: Tensor
    frames: Tensor
    fraction: float = 1.0

    def split(self, count: int) -> list[TokenizerBatch]:
        """At most so many micro-batches, for gradient accumulation."""
        clips = len(self.video)
        return [replace(self, video=video, fraction=len(video) / clips) for video in self.video.chunk(count)]

    def scaled(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """What means over this micro-batch add to those over the batch."""
        return {name: self.fraction * loss for name, loss in losses.items()}

    def discriminator_input(self, video: Tensor, config: DiscriminatorConfig) -> Tensor:
        """What the discriminator scores of `video`, this one or its reconstruction."""
        return video[:, :, self.frames] if config.input == "frames" else video


def compute_loss(
    networks: TokenizerNetworks, batch: TokenizerBatch, recipe: TokenizerRecipe, autocast: Autocast, adversarial: bool
) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
    """What a micro-batch adds to the objective, and to the weighted losses by name, float32 scalars; and the
    reconstruction, without gradient."""
    with autocast():
        out = networks.tokenizer(batch.video)
    losses = pixel_losses(out.video, batch.video, recipe.loss)
    with nullcontext() if is_on_cpu(out.video) else autocast():
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
    losses = batch.scaled(losses)
    return sum(losses.values()), losses, Reconstruction(out.video.detach(), out.quantized)


def compute_discriminator_loss(
    networks: TokenizerNetworks,
    batch: TokenizerBatch,
    made: Tensor,
    recipe: TokenizerRecipe,
    autocast: Autocast,
    penalize: bool,
) -> tuple[Tensor, dict[str, Tensor], None]:
    """As `compute_loss`, of the discriminator, and its accuracy. made: reconstruction without gradient."""
    config, discriminator = recipe.discriminator, networks.discriminator
    fake, real = batch.discriminator_input(made, config), batch.discriminator_input(batch.video, config)
    with autocast():
        fake_scores, real_scores = discriminator(fake), discriminator(real)
    losses = {"discriminator_loss": discriminator_loss(real_scores, fake_scores, config.loss)}
    if penalize:
        losses["penalty"] = config.penalty_every * config.penalty * gradient_penalty(discriminator, real)
    losses = batch.scaled(losses)
    accuracy = ((real_scores > 0).float().mean() + (fake_scores < 0).float().mean()) / 2
    return sum(losses.values()), losses | batch.scaled({"discriminator_accuracy": accuracy}), None


def build_networks(recipe: TokenizerRecipe) -> Networks:
    """The networks in training by name: the tokenizer, and a discriminator if the recipe has one."""
    networks: Networks = {"tokenizer": build_tokenizer(recipe.tokenizer)}
    if recipe.loss.adversarial:
        networks["discriminator"] = Discriminator(recipe.discriminator)
    return networks


def initialize_from(tokenizer: Tokenizer, init: Tokenizer) -> None:
    """Load the weights of a trained tokenizer. Raises PhenakiError for one of other sizes."""
    own, state = tokenizer.state_dict(), init.state_dict()
    if {key: tensor.shape for key, tensor in state.items()} != {key: tensor.shape for key, tensor in own.items()}:
        raise PhenakiError(
            "the tokenizer to begin with has other sizes than the recipe's: override the recipe's with those in its "
            "config.json"
        )
    tokenizer.load_state_dict(state)


def _first_clips(recipe: TokenizerRecipe) -> Iterator[Tensor]:
    """Training clips, float (B, 3, T, H, W) in [0, 1], at least `_FIRST_CLIPS` in all."""
    data = Batches(replace(recipe.data, workers=0), recipe.tokenizer.patch[0], captions=False)
    for _ in range(math.ceil(_FIRST_CLIPS / recipe.data.batch)):
        yield to_float(next(data)["video"])


def build_optimizers(networks: Networks, recipe: TokenizerRecipe) -> dict[str, Optimizers]:
    """Those of the networks, by the names that they have in checkpoints."""
    steps, config = recipe.run.steps, recipe.discriminator
    optimizers = {"optimizers": Optimizers([networks["tokenizer"]], recipe.optimizer, steps)}
    if "discriminator" in networks:
        own = replace(recipe.optimizer, kind="adamw", lr=config.lr, betas=config.betas)
        optimizers[DISCRIMINATOR] = Optimizers([networks["discriminator"]], own, steps)
    return optimizers


class TokenizerTrainer(Trainer):
    """A tokenizer in training, with a discriminator if the recipe has one. `alarms`: the problems so far."""

    def __init__(self, recipe: TokenizerRecipe, run: Run, init: Tokenizer | None = None):
        networks = run.initialize(lambda: build_networks(recipe))
        if init is not None:
            initialize_from(networks["tokenizer"], init)
        elif run.is_main:  # its weights are broadcast
            networks["tokenizer"].initialize_from_data(_first_clips(recipe))
        if recipe.freeze_encoder:
            for parameter in networks["tokenizer"].encoder_parameters():
                parameter.requires_grad_(False)
        networks = {name: network.to(run.device) for name, network in networks.items()}
        super().__init__(recipe, run, networks, build_optimizers, averages={"tokenizer": "ema"})
        perceptual = load_perceptual(recipe.loss, run.device)
        compiled = [network for network in perceptual if network is not None]
        prepare_layers(compiled, replace(recipe.run, strategy="ddp", checkpointing=False), run.device)
        self.networks = TokenizerNetworks(**networks, perceptual=perceptual)
        self.tokenizer, self.discriminator = self.networks.tokenizer, self.networks.discriminator
        self.alarms: list[str] = []
        self._health = Health(recipe.tokenizer.quantizer.kind)
        self._usable: dict[int, float] = {}  # of each step whose metrics are not read yet, the fraction of the codes

    def load(self, batch: Batch) -> Tensor:
        return to_float(to_device(batch["video"], self.run.device))

    def update(self, video: Tensor, step: int) -> Metrics:
        """One update with a batch, float (B, 3, T, H, W) in [0, 1] on the run's device. Returns the metrics: losses and
        gradient norm only, if one of these is not finite and the step was skipped."""
        recipe, networks, autocast, rng = self.recipe, self.networks, self.autocast, self.run.rng(step)
        adversarial = self.discriminator is not None and step >= recipe.discriminator.start
        batch = TokenizerBatch(video, sample_frames(video.shape[2], recipe.loss, rng))
        micro_batches = batch.split(recipe.optimizer.accumulate)

        loss, losses, outputs = accumulate_gradients(
            micro_batches, lambda micro_batch: compute_loss(networks, micro_batch, recipe, autocast, adversarial)
        )
        statistics = [self.tokenizer.quantizer.statistics(out.quantized) for out in outputs]
        norm = self.take_step("optimizers", loss, step)
        metrics = {"loss": loss} | losses | {"grad_norm": norm}
        if norm.is_cpu and not norm.isfinite():  # no process took the step
            return metrics
        if not recipe.freeze_encoder:
            metrics["reset"] = self._update_quantizer(statistics, outputs[-1].quantized, rng, norm)
        self.update_averages(norm)

        if adversarial:
            made = [out.video for out in outputs]
            metrics |= self._update_discriminator(list(zip(micro_batches, made, strict=True)), step)
        metrics |= self._describe(outputs, video) | {"lr": self.optimizers["optimizers"].lr(step)}
        ids = len(video) * math.prod(self.tokenizer.grid(*video.shape[2:])) / self.tokenizer.num_codebooks
        self._usable[step] = min(1.0, ids / self.tokenizer.vocab_size)
        return metrics

    def _update_discriminator(self, micro_batches: Sequence[tuple[TokenizerBatch, Tensor]], step: int) -> Metrics:
        networks, recipe, autocast = self.networks, self.recipe, self.autocast
        penalize = bool(recipe.discriminator.penalty) and step % recipe.discriminator.penalty_every == 0
        loss, losses, _ = accumulate_gradients(
            micro_batches,
            lambda micro_batch: compute_discriminator_loss(networks, *micro_batch, recipe, autocast, penalize),
        )
        norm, lr = self.take_step(DISCRIMINATOR, loss, step), self.optimizers[DISCRIMINATOR].lr(step)
        return losses | {"discriminator_grad_norm": norm, "discriminator_lr": lr}

    def _update_quantizer(
        self, statistics: Sequence[tuple[Tensor, ...]], last: Quantized, rng: torch.Generator, norm: Tensor
    ) -> float | Tensor:
        """What the quantizer learns without gradients, from the statistics of all processes; nothing if the gradient
        norm is not finite."""
        quantizer = self.tokenizer.quantizer
        state = [] if norm.is_cpu or not quantizer.learns else list(quantizer.state_dict().values())
        before = [tensor.clone() for tensor in state]
        summed = tuple(map(sum, zip(*statistics, strict=True)))
        self.run.processes.all_reduce(summed)
        reset_codes = quantizer.update(summed, last, rng)
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(torch.where(norm.isfinite(), tensor, old))
        self.run.processes.broadcast(quantizer.state_dict().values())  # each process resets codes from its own batch
        return reset_codes

    def _describe(self, outputs: Sequence[Reconstruction], video: Tensor) -> Metrics:
        made = torch.cat([out.video for out in outputs]).float()
        ids = torch.cat([out.quantized.ids for out in outputs])
        perplexity, used = code_usage(ids, self.tokenizer.vocab_size, self.tokenizer.num_codebooks)
        psnr = -10 * (made - video).square().mean().clamp_min(1e-10).log10()
        return {"perplexity": perplexity, "used": used, "contrast": contrast(made, video), "psnr": psnr}

    def check_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Report the problems of a step."""
        for name, sentence in self._health.check(metrics, self._usable.pop(step)).items():
            self.run.alarm(name, sentence, step)
            self.alarms.append(f"{name}: {sentence}")


def load_perceptual(config: TokenizerLossConfig, device: torch.device) -> PerceptualNetworks:
    """The frozen networks of the perceptual losses. Raises PhenakiError if their weights are missing."""
    return PerceptualNetworks(
        load_lpips(config.lpips_weights or None) if config.lpips else None,
        load_i3d(config.i3d_weights or None) if config.i3d else None,
    ).to(device)


def train_tokenizer(
    recipe: TokenizerRecipe,
    folder: str | Path,
    resume: str = "auto",
    overwrite: bool = False,
    init: Tokenizer | None = None,
) -> Path:
    """Train a tokenizer, or resume the run in `folder`. Returns the folder of the averaged weights.

    `init`: a tokenizer of the recipe's sizes to fine-tune. `resume` and `overwrite` are those of `Run`.
    """
    if recipe.freeze_encoder and init is None:
        raise PhenakiError("freeze_encoder keeps the ids of a trained tokenizer: name one to begin with (--init-from)")
    clips = _check_clips(recipe)
    with Run(folder, recipe.run, recipe, resume=resume, overwrite=overwrite) as run:
        trainer = TokenizerTrainer(recipe, run, init)
        period = trainer.tokenizer.patch[0]
        data = Batches(recipe.data, period, run.rank, run.world_size, captions=False, on_bad=run.skip_sample)

        def preview(averages: Networks) -> None:
            if recipe.run.previews:
                metrics, reconstructions = evaluate_tokenizer(averages["tokenizer"], clips)
                run.record(metrics)
                run.show("reconstruction", reconstructions, recipe.tokenizer.fps)
            save_component(averages["tokenizer"], run.folder / "tokenizer")

        trainer.train(data, preview)
    return run.folder / "tokenizer"


def overfit_one(recipe: TokenizerRecipe, folder: str | Path, steps: int = 1000, goal: float = 35.0) -> str:
    """Train on one fixed clip in a new folder: a setup that cannot memorise it will learn nothing.

    Takes the recipe's losses and peak learning rate, with a short warm-up and no decay. Returns a sentence with the
    step that reached `goal` dB of PSNR, through its codes: shuffled, they must cost `_LEAST_CARRIED` dB. Writes
    original, reconstruction and that of the shuffled codes as a picture. Raises PhenakiError with a diagnosis if
    `steps` were not enough.
    """
    if (Path(folder) / "recipe.json").exists():
        raise PhenakiError(f"the folder '{folder}' already holds a run: name a new one for --overfit-one")
    clip = _check_clips(recipe).samples[0].video
    optimizer = replace(recipe.optimizer, warmup_steps=min(10, recipe.optimizer.warmup_steps), final_lr=1.0)
    run_config = replace(recipe.run, steps=steps, checkpoint_every=steps)
    recipe = replace(recipe, optimizer=replace(optimizer, accumulate=1), run=run_config)
    with Run(folder, recipe.run, recipe) as run:
        trainer = TokenizerTrainer(recipe, run)
        video = to_float(clip).to(run.device)
        history: list[Metrics] = []
        for step in run.steps(trainer.state):
            history += [values for _, values in read_metrics([(step, trainer.update(video, step))])]
            run.log(**history[-1])
            last = step + 1 == steps
            if not last and (history[-1].get("psnr", 0.0) < goal or step % _PROOF_EVERY):
                continue
            made, shuffled = _proof(trainer.tokenizer, video)
            rows = [to_uint8(each[0]) for each in (video, made, shuffled)]
            preview = Preview(rows, ["original", "reconstruction", "reconstruction from shuffled codes"])
            found, unordered = (_psnr(each, video) for each in (made, shuffled))
            if found >= goal and found - unordered >= _LEAST_CARRIED:
                run.show("overfit_one", preview, recipe.tokenizer.fps)
                sentence = (
                    f"passed: one clip was memorised, {found:.1f} dB at step {step + 1}; with its codes shuffled "
                    f"{unordered:.1f} dB, so the codes carry it. See overfit_one_{step + 1:07d}.png in '{run.folder}'"
                )
                run.finish(sentence)
                return sentence
            if last:
                run.show("overfit_one", preview, recipe.tokenizer.fps)
                raise PhenakiError(_failure(history, trainer.alarms, goal, found, unordered))
    raise KeyboardInterrupt


@torch.no_grad()
def _proof(tokenizer: Tokenizer, video: Tensor) -> tuple[Tensor, Tensor]:
    """The reconstruction of a clip (1, 3, T, H, W), and what its ids decode to in another order."""
    ids = tokenizer.eval().encode(video)
    order = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(0)).to(ids.device)
    made = tokenizer.decode(ids), tokenizer.decode(ids.flatten()[order].view_as(ids))
    tokenizer.train()
    return made


def _psnr(made: Tensor, video: Tensor) -> float:
    return -10 * math.log10(max(1e-10, (made - video).square().mean().item()))


def _failure(history: Sequence[Metrics], alarms: Sequence[str], goal: float, found: float, unordered: float) -> str:
    if found >= goal:
        perplexity = history[-1].get("perplexity", math.nan)
        return (
            f"failed: the decoder knows the clip without its codes: {found:.1f} dB, and {unordered:.1f} dB with them "
            f"shuffled, at a perplexity of {perplexity:.3g}; {'; '.join(alarms) or 'take a lower optimizer.lr'}"
        )
    best = max(metrics.get("psnr", 0.0) for metrics in history)
    return (
        f"failed: one clip was not memorised: {best:.1f} dB instead of {goal:g} in {len(history)} steps; "
        f"{diagnosis(history, alarms)}"
    )


def _check_clips(recipe: TokenizerRecipe) -> EvalSamples:
    """The clips for evaluation. Raises PhenakiError for a recipe whose sections, or clips, do not fit."""
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
