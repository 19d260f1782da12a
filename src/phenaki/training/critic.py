"""Training of critics (Token-Critic, 2209.04439, section 3): the loss, and the run beside a frozen generator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phenaki.conditioning import Text
from phenaki.core.components import fingerprint
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Autocast
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig
from phenaki.generators import Components, Generator
from phenaki.generators.critic import Critic, CriticConfig, build_critic
from phenaki.generators.losses import GeneratorLossConfig, critic_loss
from phenaki.pipeline import Phenaki, save_model
from phenaki.sampling import DecodingConfig
from phenaki.sampling.decoding import sample_logits
from phenaki.training.config import RunConfig
from phenaki.training.gradients import accumulate_gradients, concatenate
from phenaki.training.inputs import Inputs, open_inputs
from phenaki.training.masking import GeneratorBatch, PrefixConfig, masked_logits
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.previews import Checker, Previews
from phenaki.training.run import Metrics, Run
from phenaki.training.trainer import Networks, Trainer


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


def critic_optimizers(critic: Critic, recipe: Any) -> Optimizers:
    """Those of the critic's own weights: a self-critic's head, whose features belong to the generator."""
    optimizer = replace(recipe.optimizer, lr=recipe.critic.lr or recipe.optimizer.lr)
    return Optimizers([critic], optimizer, recipe.run.steps)


def score_sampled(
    critic: Critic, generator: Generator, text: Text, batch: GeneratorBatch, logits: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a micro-batch adds to the critic's loss, and `log_odds` and `real` (F,) of its ids; call it in `autocast`.

    The masked ids are sampled from the generator's logits (M, V), which get no gradient. Sampled ids equal to the
    original are labelled real, as are all that were not masked; known ids do not count.
    """
    sampled, _ = sample_logits(logits.detach(), batch.uniform, temperature, DecodingConfig())
    filled = batch.ids.flatten().scatter(0, batch.where, sampled).view_as(batch.ids)
    condition = critic.condition_on(generator, text, batch.dropped)
    log_odds = critic.scores(generator, filled, condition).flatten()[batch.free]
    real = (filled == batch.ids).flatten()[batch.free]
    loss = batch.free_fraction * critic_loss(log_odds, real)
    return loss, {"log_odds": log_odds.detach(), "real": real}


def accuracy(log_odds: Tensor, real: Tensor) -> Tensor:
    """Balanced accuracy, a scalar: mean over real and generated ids (0.5 by chance). log_odds (F,), real bool (F,); a
    class without ids counts as 1."""
    right = (log_odds > 0) == real
    rates = [torch.where(which.any(), (right & which).sum() / which.sum().clamp_min(1), 1.0) for which in (real, ~real)]
    return sum(rates) / 2


def compute_loss(
    networks: Components, batch: GeneratorBatch, recipe: CriticRecipe, autocast: Autocast
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """What a micro-batch adds to the objective, and to the loss of a critic whose generator is frozen; and the
    outputs of `score_sampled`."""
    critic, generator = networks.critic, networks.generator
    with torch.no_grad(), autocast():
        logits = masked_logits(generator, batch.text, batch)
    with autocast():
        loss, scored = score_sampled(critic, generator, batch.text, batch, logits, recipe.critic.temperature)
    return recipe.critic.weight * loss, {"critic_loss": loss}, scored


def build_optimizers(networks: Networks, recipe: CriticRecipe) -> dict[str, Optimizers]:
    """Those of the critic, by the name that they have in checkpoints."""
    return {"optimizers": critic_optimizers(networks["critic"], recipe)}


class CriticTrainer(Trainer):
    """A critic in training beside a frozen generator."""

    def __init__(self, recipe: CriticRecipe, run: Run, model: Components, inputs: Inputs):
        networks = run.initialize(lambda: {"critic": build_critic(recipe.critic, model.generator)})
        critic = networks["critic"].to(run.device)
        self.components, self.inputs = replace(model, critic=critic), inputs
        super().__init__(recipe, run, {"critic": critic}, build_optimizers)

    def update(self, batch: Batch, step: int) -> Metrics:
        loss = GeneratorLossConfig(text_drop=0.0)
        micro_batches = self.inputs.draw_micro_batches(batch, self.components, self.run, step, self.recipe, loss)
        objective, losses, outputs = accumulate_gradients(
            micro_batches, lambda micro_batch: compute_loss(self.components, micro_batch, self.recipe, self.autocast)
        )
        norm = self.take_step("optimizers", objective, step)
        self.update_averages(norm)
        return {
            "critic_loss": losses["critic_loss"],
            "critic_accuracy": accuracy(**concatenate(outputs)),
            "grad_norm": norm,
            "lr": self.optimizers["optimizers"].lr(step),
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
    inputs.check(recipe.data, recipe.prefix, model.generator.config)
    model.generator.requires_grad_(False)
    previews = Previews(recipe, inputs, checker)
    frozen = inputs.frozen | {"generator": fingerprint(model.generator)}
    with Run(folder, recipe.run, recipe, frozen, resume, overwrite) as run:
        model.to(run.device)
        trainer = CriticTrainer(recipe, run, model.components, inputs)

        def preview(averages: Networks) -> None:
            components = replace(model.components, critic=averages["critic"])
            if recipe.run.previews:
                run.record(previews.show(run, components, model.sampling.with_options({"order": "critic"})))
            save_model(run.folder / "model", components, model.sampling, domain=model.domain)

        trainer.train(inputs.batches(recipe.data, run), preview)
    return run.folder / "model"
