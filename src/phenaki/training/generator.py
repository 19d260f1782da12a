"""Training of the second stage: the loss of a step, the update, the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from phenaki.conditioning import Text, TextConfig, TextEncoder, WordEncoderConfig, encoder_class
from phenaki.core.precision import Autocast, autocast
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.generators import Components, GeneratorSizes, MaskedTransformerSizes, build_generator
from phenaki.generators.critic import CriticConfig, build_critic
from phenaki.generators.losses import GeneratorLossConfig, masked_cross_entropy
from phenaki.pipeline import save_model
from phenaki.sampling import SamplingConfig
from phenaki.tokenizers import Tokenizer
from phenaki.training.config import RunConfig
from phenaki.training.critic import accuracy, critic_optimizers, score_sampled
from phenaki.training.gradients import add_weighted
from phenaki.training.inputs import Inputs, check_batches, open_inputs
from phenaki.training.layers import prepare_layers
from phenaki.training.masking import GeneratorBatch, PrefixConfig, make_batch, masked_logits
from phenaki.training.optim import OptimizerConfig, Optimizers, averaged
from phenaki.training.previews import Checker, evaluate_generator, preview_prompts, read_prompts
from phenaki.training.run import Run
from phenaki.training.sharding import gather_full


@dataclass(frozen=True)
class GeneratorRecipe:
    """The complete configuration of a second-stage run but for the tokenizer, which is given by its folder."""

    generator: GeneratorSizes = field(default_factory=MaskedTransformerSizes)
    text: TextConfig = field(default_factory=WordEncoderConfig)
    data: DataConfig = field(kw_only=True)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: RunConfig = field(default_factory=RunConfig)


def compute_loss(
    networks: Components, batch: GeneratorBatch, recipe: GeneratorRecipe, autocast: Autocast
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses by name, float32 scalars: that of the generator, and that of a critic beside it; and outputs:
    `correct`, bool (M,), which masked ids are predicted, and those of `score_sampled`."""
    generator, critic = networks.generator, networks.critic
    with autocast():
        text = batch.text if isinstance(batch.text, Text) else networks.text_encoder(batch.text)
        logits = masked_logits(generator, text, batch)
    loss = masked_cross_entropy(logits, batch.targets, batch.weight, recipe.loss.label_smoothing)
    losses, outputs = {"loss": loss}, {"correct": logits.argmax(-1) == batch.targets}
    if critic is not None:
        with autocast():
            losses["critic_loss"], scored = score_sampled(
                critic, generator, text, batch, logits, recipe.critic.temperature
            )
        outputs |= scored
    return losses, outputs


def accumulate_gradients(
    networks: Components, parts: Sequence[GeneratorBatch], recipe: GeneratorRecipe, autocast: Autocast
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Forward and backward pass for the parts of a batch: the losses of the batch, with their sum as `objective`, and
    the outputs of each part."""
    masked, free = sum(part.weight.sum() for part in parts), sum(len(part.free) for part in parts)
    totals, outputs = {}, []
    for part in parts:
        losses, output = compute_loss(networks, part, recipe, autocast)
        losses["loss"] = losses["loss"] * (part.weight.sum() / masked)
        objective = losses["loss"]
        if "critic_loss" in losses:
            losses["critic_loss"] = losses["critic_loss"] * (len(part.free) / free)
            objective = objective + recipe.critic.weight * losses["critic_loss"]
        objective.backward()
        add_weighted(totals, losses | {"objective": objective})
        outputs.append(output)
    return totals, outputs


def build_networks(recipe: GeneratorRecipe, inputs: Inputs) -> dict[str, nn.Module]:
    """The networks in training by name: the generator first, a text encoder that learns, and a critic."""
    generator = build_generator(recipe.generator, inputs.spec, inputs.text_width)
    networks: dict[str, nn.Module] = {"generator": generator}
    if inputs.learns_text:
        networks["text_encoder"] = encoder_class(recipe.text)(recipe.text)
    if recipe.critic.kind != "none":
        networks["critic"] = build_critic(recipe.critic, generator)
    return networks


def build_optimizers(networks: dict[str, nn.Module], recipe: GeneratorRecipe) -> dict[str, Optimizers]:
    """Those of generator and text encoder, and those of a critic, by the names that they have in checkpoints."""
    learners = [network for name, network in networks.items() if name != "critic"]
    optimizers = {"optimizers": Optimizers(learners, recipe.optimizer, recipe.run.steps)}
    if "critic" in networks:
        own = critic_optimizers(networks["critic"], recipe.critic, recipe.optimizer, recipe.run.steps)
        optimizers["critic_optimizers"] = own
    return optimizers


class GeneratorTrainer:
    """The networks of a second-stage run, their optimizers and moving averages, and the update of them all.

    `parts`: what a checkpoint holds; frozen networks are not in it.
    """

    def __init__(self, recipe: GeneratorRecipe, run: Run, inputs: Inputs):
        self.recipe, self.run = recipe, run
        self.autocast = partial(autocast, run.device, recipe.run.precision)
        with run.initializing():
            self.trained = build_networks(recipe, inputs)
        self.inputs = replace(inputs, text_encoder=self.trained.get("text_encoder", inputs.text_encoder))
        for network in (*self.trained.values(), inputs.tokenizer, inputs.text_encoder):
            if network is not None:
                network.to(run.device)
        self.networks = self._components(self.trained)
        self.averages = {name: averaged(network, recipe.optimizer.ema_decay) for name, network in self.trained.items()}
        prepare_layers(self.trained.values(), recipe.run, run.device, self.averages.values())
        self.optimizers = build_optimizers(self.trained, recipe)
        passes = recipe.optimizer.accumulate
        self.reducers = [run.gradient_reducer(each.parameters, passes) for each in self.optimizers.values()]
        self.parts = self.trained | {f"{name}_ema": average for name, average in self.averages.items()}
        self.parts |= self.optimizers

    def _components(self, trained: dict[str, nn.Module]) -> Components:
        text_encoder = trained.get("text_encoder", self.inputs.text_encoder)
        return Components(trained["generator"], self.inputs.tokenizer, text_encoder, trained.get("critic"))

    def draw_batch(self, batch: Batch, step: int) -> list[GeneratorBatch]:
        """The batch in parts, with all that is random in a step."""
        recipe, run, rng = self.recipe, self.run, self.run.rng(step)
        ids = self.inputs.ids(batch, run.device)
        masks = recipe.prefix.draw_masks(batch["continued"], ids.shape[1:], rng, run.rng(step, shared=True))
        dropped = torch.rand(len(ids), generator=rng) < recipe.loss.text_drop
        uniform = torch.rand(int(masks[1].sum()), 1, generator=rng) if "critic" in self.trained else None
        with self.autocast():
            text = self.inputs.text(batch, run.device)
        weight, parts = recipe.loss.first_frame_weight, recipe.optimizer.accumulate
        return make_batch(ids, text, masks, dropped, uniform, weight, parts)

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """One update. Returns the metrics."""
        losses, outputs = accumulate_gradients(self.networks, self.draw_batch(batch, step), self.recipe, self.autocast)
        for reducer in self.reducers:
            reducer.finish(losses["objective"])
        norms = [optimizers.update(step) for optimizers in self.optimizers.values()]
        if math.isfinite(norms[0]):  # else no step was taken
            for name, average in self.averages.items():
                average.update_parameters(self.trained[name])

        joined = {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
        metrics = {
            "loss": losses["loss"].item(),
            "accuracy": joined["correct"].float().mean().item(),
            "grad_norm": norms[0],
            "lr": self.optimizers["optimizers"].lr(step),
        }
        if "critic" in self.trained:
            metrics["critic_loss"] = losses["critic_loss"].item()
            metrics["critic_accuracy"] = accuracy(joined["log_odds"], joined["real"])
            metrics["critic_grad_norm"] = norms[1]
        return metrics

    def averaged_components(self) -> Components:
        """The model with averaged weights, for inference; all processes call."""
        return self._components({name: gather_full(average.module).eval() for name, average in self.averages.items()})


def train_generator(
    recipe: GeneratorRecipe,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    text_encoder: TextEncoder | None = None,
    resume: str = "auto",
    overwrite: bool = False,
    checker: Checker | None = None,
) -> Path:
    """Train a generator for a frozen tokenizer, or resume the run in `folder`.

    The text encoder is trained too, unless it is of a pretrained kind, or `text_encoder` is given: that stays frozen.
    Token shards hold ids, and may hold text embeddings: networks that are not needed for them may be omitted, and the
    trained model is then saved without them. `checker` checks samples from captions of a procedural world.

    Returns the folder of the model with averaged weights, as `Phenaki.from_pretrained` reads it. Raises PhenakiError
    for a tokenizer or text encoder that does not fit the data, or differs from that of the run in `folder`. `resume`
    and `overwrite` are those of `Run`.
    """
    inputs = open_inputs(recipe.data, recipe.text, tokenizer, text_encoder)
    recipe.prefix.check_causal(inputs.causal)
    check_batches(recipe.data, recipe.generator.frames)
    recipe.sampling.decoding.check_critic(recipe.critic.kind != "none")
    clips = eval_samples(recipe.data, captions=inputs.captions, check_caption=inputs.check_caption)
    prompts = read_prompts(recipe.run.prompts, inputs)
    frozen = {"tokenizer": inputs.fingerprint, "text encoder": inputs.text_fingerprint}
    with Run(folder, recipe.run, recipe, frozen, resume, overwrite) as run:
        trainer = GeneratorTrainer(recipe, run, inputs)
        data = trainer.inputs.batches(recipe.data, run)
        parts = trainer.parts | {"data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            run.log(**trainer.update(run.next(data), step))
            if run.completes(recipe.run.picture_every):
                model = trainer.averaged_components()
                if run.is_main:
                    fps, precision = inputs.spec.fps, recipe.run.precision
                    metrics, preview = evaluate_generator(
                        model, clips, trainer.inputs, recipe.sampling, checker, precision
                    )
                    run.record(metrics)
                    if preview is not None:
                        run.show("samples", preview, fps)
                    if prompts:
                        run.show("prompts", preview_prompts(model, prompts, recipe.sampling), fps)
                    save_model(run.folder / "model", model, recipe.sampling, inputs.fingerprint)
    return run.folder / "model"
