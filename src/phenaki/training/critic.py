"""Training of critics (Token-Critic, 2209.04439, section 3): the loss, and the run beside a frozen generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from phenaki.conditioning import Text
from phenaki.core.components import fingerprint
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Autocast, autocast
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.generators import Generator
from phenaki.generators.critic import Critic, CriticConfig, build_critic
from phenaki.generators.losses import critic_loss
from phenaki.pipeline import Phenaki, save_model
from phenaki.sampling import DecodingConfig
from phenaki.sampling.decoding import sample_logits
from phenaki.training.config import RunConfig
from phenaki.training.gradients import add_weighted
from phenaki.training.inputs import Inputs, check_batches, open_inputs
from phenaki.training.layers import prepare_layers
from phenaki.training.masking import GeneratorBatch, PrefixConfig, make_batch, masked_logits
from phenaki.training.optim import OptimizerConfig, Optimizers, averaged
from phenaki.training.previews import Checker, preview_captions, preview_prompts, read_prompts
from phenaki.training.run import Run
from phenaki.training.sharding import gather_full


@dataclass(frozen=True)
class CriticRecipe:
    """The complete configuration of a critic's training but for the model, which is given by its folder."""

    critic: CriticConfig = field(default_factory=lambda: CriticConfig(kind="token"))
    data: DataConfig = field(kw_only=True)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.critic.kind == "none":
            raise PhenakiError("critic.kind none leaves nothing to train: take token or self")


def critic_optimizers(critic: Critic, config: CriticConfig, optimizer: OptimizerConfig, steps: int) -> Optimizers:
    """Those of the critic's own weights: a self-critic's head, whose features belong to the generator."""
    return Optimizers([critic], replace(optimizer, lr=config.lr or optimizer.lr), steps)


def score_sampled(
    critic: Critic, generator: Generator, text: Text, batch: GeneratorBatch, logits: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The critic's loss, and `log_odds` and `real` (F,) of the ids it scored; call it in `autocast`.

    The masked ids are sampled from the generator's logits (M, V), which get no gradient. Sampled ids equal to the
    original are labelled real, as are all that were not masked; known ids do not count.
    """
    sampled, _ = sample_logits(logits.detach(), batch.uniform, temperature, DecodingConfig())
    filled = batch.ids.flatten().scatter(0, batch.where, sampled).view_as(batch.ids)
    condition = critic.condition_on(generator, text, batch.dropped)
    log_odds = critic.scores(generator, filled, condition).flatten()[batch.free]
    real = (filled == batch.ids).flatten()[batch.free]
    return critic_loss(log_odds, real), {"log_odds": log_odds.detach(), "real": real}


def accuracy(log_odds: Tensor, real: Tensor) -> float:
    """Balanced accuracy: mean over real and generated ids (0.5 by chance). log_odds (F,), real bool (F,); a class
    without ids counts as 1."""
    right = (log_odds > 0) == real
    rates = [right[which].float().mean().item() if which.any() else 1.0 for which in (real, ~real)]
    return sum(rates) / 2


def compute_loss(
    critic: Critic, generator: Generator, batch: GeneratorBatch, recipe: CriticRecipe, autocast: Autocast
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a critic whose generator is frozen, and the outputs of `score_sampled`."""
    with torch.no_grad(), autocast():
        logits = masked_logits(generator, batch.text, batch)
    with autocast():
        return score_sampled(critic, generator, batch.text, batch, logits, recipe.critic.temperature)


def accumulate_gradients(
    critic: Critic, generator: Generator, parts: Sequence[GeneratorBatch], recipe: CriticRecipe, autocast: Autocast
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Forward and backward pass for the parts of a batch: the losses of the batch, and the outputs of each part."""
    total, losses, outputs = sum(len(part.free) for part in parts), {}, []
    for part in parts:
        loss, output = compute_loss(critic, generator, part, recipe, autocast)
        fraction = len(part.free) / total
        (recipe.critic.weight * fraction * loss).backward()
        add_weighted(losses, {"critic_loss": loss}, fraction)
        outputs.append(output)
    return losses, outputs


class CriticTrainer:
    """A critic in training beside a frozen generator, and its update. `parts`: what a checkpoint holds."""

    def __init__(self, recipe: CriticRecipe, run: Run, generator: Generator, inputs: Inputs):
        self.recipe, self.run, self.generator, self.inputs = recipe, run, generator, inputs
        self.autocast = partial(autocast, run.device, recipe.run.precision)
        with run.initializing():
            self.critic = build_critic(recipe.critic, generator).to(run.device)
        self.ema = averaged(self.critic, recipe.optimizer.ema_decay)
        prepare_layers([self.critic], recipe.run, run.device, [self.ema])
        self.optimizers = critic_optimizers(self.critic, recipe.critic, recipe.optimizer, recipe.run.steps)
        self.reducer = run.gradient_reducer(self.optimizers.parameters, recipe.optimizer.accumulate)
        self.parts = {"critic": self.critic, "critic_ema": self.ema, "optimizers": self.optimizers}

    def draw_batch(self, batch: Batch, step: int) -> list[GeneratorBatch]:
        """The batch in parts, with all that is random in a step."""
        run, rng = self.run, self.run.rng(step)
        ids = self.inputs.ids(batch, run.device)
        masks = self.recipe.prefix.draw_masks(batch["continued"], ids.shape[1:], rng, run.rng(step, shared=True))
        uniform = torch.rand(int(masks[1].sum()), 1, generator=rng)
        with self.autocast():
            text = self.inputs.text(batch, run.device)
        dropped = torch.zeros(len(ids), dtype=torch.bool)
        return make_batch(ids, text, masks, dropped, uniform, parts=self.recipe.optimizer.accumulate)

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """One update. Returns the metrics."""
        parts = self.draw_batch(batch, step)
        losses, outputs = accumulate_gradients(self.critic, self.generator, parts, self.recipe, self.autocast)
        self.reducer.finish(losses["critic_loss"])
        norm = self.optimizers.update(step)
        if math.isfinite(norm):  # else no step was taken
            self.ema.update_parameters(self.critic)
        log_odds, real = (torch.cat([output[name] for output in outputs]) for name in ("log_odds", "real"))
        return {
            "critic_loss": losses["critic_loss"].item(),
            "critic_accuracy": accuracy(log_odds, real),
            "grad_norm": norm,
            "lr": self.optimizers.lr(step),
        }


def train_critic(
    recipe: CriticRecipe,
    folder: str | Path,
    model: Phenaki,
    resume: str = "auto",
    overwrite: bool = False,
    checker: Checker | None = None,
) -> Path:
    """Train a critic for a model, all of which stays frozen, or resume the run in `folder`.

    Returns the folder of the model with its critic, as `Phenaki.from_pretrained` reads it. Its sampling is that of the
    model; the order "critic" asks the critic. Raises PhenakiError for data that do not fit the model, and for another
    model than that of the run in `folder`. `resume` and `overwrite` are those of `Run`, `checker` is that of
    `train_generator`.
    """
    inputs = open_inputs(recipe.data, model.text_encoder.config, model.tokenizer, model.text_encoder)
    recipe.prefix.check_causal(inputs.causal)
    check_batches(recipe.data, model.generator.config.frames)
    model.generator.requires_grad_(False)
    clips = eval_samples(recipe.data, captions=inputs.captions, check_caption=inputs.check_caption)
    prompts = read_prompts(recipe.run.prompts, inputs)
    frozen = {"tokenizer": inputs.fingerprint, "text encoder": inputs.text_fingerprint}
    frozen |= {"generator": fingerprint(model.generator)}
    with Run(folder, recipe.run, recipe, frozen, resume, overwrite) as run:
        model.to(run.device)
        trainer = CriticTrainer(recipe, run, model.generator, inputs)
        data = inputs.batches(recipe.data, run)
        parts = trainer.parts | {"data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            run.log(**trainer.update(run.next(data), step))
            if run.completes(recipe.run.picture_every):
                critic = gather_full(trainer.ema.module)  # all processes call
                if run.is_main:
                    components = replace(model.components, critic=critic)
                    sampling, fps = model.sampling.with_options({"order": "critic"}), model.fps
                    metrics, preview = preview_captions(components, clips, sampling, checker)
                    run.record(metrics)
                    run.show("samples", preview, fps)
                    if prompts:
                        run.show("prompts", preview_prompts(components, prompts, sampling), fps)
                    save_model(run.folder / "model", components, model.sampling)
    return run.folder / "model"
