"""Training of the second stage: the loss of a step, the update, the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from phenaki.conditioning import TextConfig, TextEncoder, WordEncoderConfig, encoder_class
from phenaki.core.components import fingerprint
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Autocast
from phenaki.data.batch import Batch
from phenaki.data.config import DataConfig
from phenaki.generators import Components, GeneratorSizes, MaskedTransformerSizes, build_generator
from phenaki.generators.base import Over
from phenaki.generators.causal import CausalTransformer, CausalTransformerSizes, causal_weights
from phenaki.generators.critic import CriticConfig, build_critic
from phenaki.generators.losses import (
    GeneratorLossConfig,
    MaskedCrossEntropy,
    distillation_loss,
    masked_cross_entropy,
)
from phenaki.pipeline import Domain, save_model
from phenaki.sampling import SamplingConfig
from phenaki.tokenizers import Tokenizer
from phenaki.tokenizers.quantizers import FSQ
from phenaki.training.config import RunConfig
from phenaki.training.critic import accuracy, critic_optimizers, score_sampled
from phenaki.training.gradients import accumulate_gradients, concatenate
from phenaki.training.id_cache import IdCacheConfig, cache_ids
from phenaki.training.inputs import Inputs, open_inputs
from phenaki.training.known_words import KnownWords
from phenaki.training.layers import prepare_layers
from phenaki.training.masking import GeneratorBatch, PrefixConfig, masked_logits
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.previews import Checker, Previews
from phenaki.training.run import Metrics, Run
from phenaki.training.trainer import Networks, Trainer


@dataclass(frozen=True)
class GeneratorRecipe:
    """The complete configuration of a second-stage run but for the tokenizer, which is given by its folder.

    `tie_levels`: codes of FSQ that have a level in common learn from each other (`TiedRowsAdamW`); without effect
    for learned codebooks."""

    generator: GeneratorSizes = field(default_factory=MaskedTransformerSizes)
    text: TextConfig = field(default_factory=WordEncoderConfig)
    data: DataConfig = field(kw_only=True)
    cache: IdCacheConfig = field(default_factory=IdCacheConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    tie_levels: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.sampling.rollout.first_frame_alone and not self.prefix.alone and 1 not in self.data.lengths:
            raise PhenakiError(
                f"sampling.rollout.first_frame_alone decodes the first frame as an image, and no step trains on "
                f"one: set prefix.alone above 0, or add 1 to data.lengths {self.data.lengths}"
            )
        if self.tie_levels and self.run.strategy == "fsdp":
            raise PhenakiError("tie_levels needs whole weights: take run.strategy=ddp, or tie_levels=false")


def compute_loss(
    networks: Components,
    batch: GeneratorBatch,
    recipe: GeneratorRecipe,
    autocast: Autocast,
    teacher: Components | None = None,
    cross_entropy: Callable[..., Tensor] = masked_cross_entropy,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """What a micro-batch adds to the objective, and to the losses by name, float32 scalars: that of the generator,
    and that of a critic beside it. And outputs: `correct`, bool (M,), which masked ids are predicted, and those of
    `score_sampled`. `teacher`: whose guidance is distilled. `cross_entropy`: the function, or compiled."""
    generator, critic = networks.generator, networks.critic
    with autocast():
        text = batch.encode_text(networks.text_encoder)
        logits = masked_logits(generator, text, batch)
    if teacher is None:
        loss = cross_entropy(logits, batch.targets, batch.weight, recipe.loss.label_smoothing)
    else:
        with autocast():
            target = cfg_logits(teacher, batch, recipe.loss.distilled_guidance, recipe.loss.distilled_over)
        loss = distillation_loss(logits, target, batch.weight)
    loss = batch.fraction * loss
    losses, outputs = {"loss": loss}, {"correct": logits.argmax(-1) == batch.targets}
    if critic is None:
        return loss, losses, outputs
    with autocast():
        critic_loss, scored = score_sampled(critic, generator, text, batch, logits, recipe.critic.temperature)
    return loss + recipe.critic.weight * critic_loss, losses | {"critic_loss": critic_loss}, outputs | scored


@torch.no_grad()
def cfg_logits(teacher: Components, batch: GeneratorBatch, scale: float, over: Over = "text") -> Tensor:
    """Logits (M, V) of the masked positions with classifier-free guidance over text, actions or both."""
    text, every = batch.encode_text(teacher.text_encoder), torch.ones_like(batch.dropped)
    hidden = {} if over == "actions" else {"dropped": every}
    hidden |= {} if over == "text" else {"dropped_actions": every}
    null = masked_logits(teacher.generator, text, replace(batch, **hidden)).float()
    return null + scale * (masked_logits(teacher.generator, text, batch).float() - null)


def build_networks(recipe: GeneratorRecipe, inputs: Inputs) -> Networks:
    """The networks in training by name: the generator first, a text encoder that learns, and a critic."""
    generator = build_generator(recipe.generator, inputs.spec, inputs.text_width, inputs.actions)
    networks: Networks = {"generator": generator}
    if inputs.learns_text:
        networks["text_encoder"] = encoder_class(recipe.text)(recipe.text)
    if recipe.critic.kind != "none":
        networks["critic"] = build_critic(recipe.critic, generator)
    return networks


def initialize_from(networks: Networks, init: Components) -> None:
    """Load the weights of a trained generator, and of its text encoder if that is trained too; a layer for actions may
    be new. Raises PhenakiError for networks of other sizes."""
    for name, source in (("generator", init.generator), ("text_encoder", init.text_encoder)):
        if name not in networks:
            continue
        become_causal = isinstance(networks[name], CausalTransformer) and not source.has_cache
        state, own = causal_weights(source) if become_causal else source.state_dict(), networks[name].state_dict()
        state = {key: tensor for key, tensor in own.items() if "actions" in key} | state
        if {key: tensor.shape for key, tensor in state.items()} != {key: tensor.shape for key, tensor in own.items()}:
            raise PhenakiError(
                f"the {name.replace('_', ' ')} of the model to begin with has other sizes than the recipe's: override "
                "the recipe's with those of the model"
            )
        networks[name].load_state_dict(state)


def build_optimizers(
    networks: Networks, recipe: GeneratorRecipe, tokenizer: Tokenizer | None = None
) -> dict[str, Optimizers]:
    """Those of generator and text encoder, and those of a critic, by the names that they have in checkpoints."""
    learners = [network for name, network in networks.items() if name != "critic"]
    quantizer, levels = getattr(tokenizer, "quantizer", None), None
    if recipe.tie_levels and isinstance(quantizer, FSQ):
        levels = networks["generator"].tie_levels(quantizer.levels_of_codes())
    optimizers = {"optimizers": Optimizers(learners, recipe.optimizer, recipe.run.steps, levels)}
    if "critic" in networks:
        optimizers["critic_optimizers"] = critic_optimizers(networks["critic"], recipe)
    return optimizers


class GeneratorTrainer(Trainer):
    """A generator in training, with a text encoder that learns, and a critic, if the recipe has them."""

    def __init__(self, recipe: GeneratorRecipe, run: Run, inputs: Inputs, init: Components | None = None):
        networks = run.initialize(lambda: build_networks(recipe, inputs))
        if init is not None:
            initialize_from(networks, init)
        for network in (*networks.values(), inputs.tokenizer, inputs.text_encoder):
            if network is not None:
                network.to(run.device)
        self.inputs, self.components, self.teacher = inputs, inputs.components(networks), None
        if recipe.loss.distilled_guidance:
            self.teacher = init
            for network in init.networks.values():
                network.to(run.device).eval().requires_grad_(False)
        self.cross_entropy = MaskedCrossEntropy()
        prepare_layers([self.cross_entropy], replace(recipe.run, strategy="ddp"), run.device)
        super().__init__(recipe, run, networks, partial(build_optimizers, tokenizer=inputs.tokenizer))
        self.words = KnownWords(run.folder) if inputs.learned_words(recipe.text) else None

    def update(self, batch: Batch, step: int) -> Metrics:
        recipe = self.recipe
        if self.words is not None:
            self.words.add(batch)
        micro_batches = self.inputs.draw_micro_batches(batch, self.components, self.run, step, recipe, recipe.loss)
        objective, losses, outputs = accumulate_gradients(
            micro_batches,
            lambda micro_batch: compute_loss(
                self.components, micro_batch, recipe, self.autocast, self.teacher, self.cross_entropy
            ),
        )
        norms = {name: self.take_step(name, objective, step) for name in self.optimizers}
        self.update_averages(norms["optimizers"])
        joined = concatenate(outputs)
        metrics = losses | {"accuracy": joined["correct"].float().mean(), "grad_norm": norms["optimizers"]}
        metrics["lr"] = self.optimizers["optimizers"].lr(step)
        if self.components.critic is not None:
            metrics["critic_accuracy"] = accuracy(joined["log_odds"], joined["real"])
            metrics["critic_grad_norm"] = norms["critic_optimizers"]
        return metrics


def train_generator(
    recipe: GeneratorRecipe,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    text_encoder: TextEncoder | None = None,
    resume: str = "auto",
    overwrite: bool = False,
    checker: Checker | None = None,
    init: Components | None = None,
) -> Path:
    """Train a generator for a frozen tokenizer, or resume the run in `folder`.

    The text encoder is trained too, unless it is of a pretrained kind, or `text_encoder` is given: that stays frozen.
    Token shards hold ids, and may hold text embeddings: networks that are not needed for them may be omitted, and the
    trained model is then saved without them. `checker` checks samples from captions of a procedural world. `init`: a
    model to fine-tune; a bidirectional generator may become a causal one.

    Returns the folder of the model with averaged weights, as `Phenaki.from_pretrained` reads it. Raises PhenakiError
    for a tokenizer or text encoder that does not fit the data, or differs from that of the run in `folder`. `resume`
    and `overwrite` are those of `Run`.
    """
    data = recipe.data
    if recipe.cache.folder:
        data = cache_ids(data, recipe.cache, tokenizer, isinstance(recipe.generator, CausalTransformerSizes))
    inputs = open_inputs(data, recipe.text, tokenizer, text_encoder)
    inputs.check(data, recipe.prefix, recipe.generator)
    recipe.sampling.decoding.check_critic(recipe.critic.kind != "none")
    is_causal = isinstance(recipe.generator, CausalTransformerSizes)
    recipe.sampling.guidance.check_actions(is_causal and inputs.actions is not None)
    frozen = inputs.frozen
    if recipe.loss.distilled_guidance:
        if init is None or not isinstance(init.generator.config, type(recipe.generator)):
            raise PhenakiError(
                f"loss.distilled_guidance {recipe.loss.distilled_guidance} takes its targets from the model that the "
                "run begins with: name one with a generator of the recipe's type (--init-from)"
            )
        if recipe.loss.distilled_over != "text" and inputs.actions is None:
            raise PhenakiError(
                f"loss.distilled_over '{recipe.loss.distilled_over}' is for data with actions, and these have none"
            )
        frozen |= {"teacher": fingerprint(init.generator)}
    previews = Previews(recipe, inputs, checker)
    with Run(folder, recipe.run, recipe, frozen, resume, overwrite) as run:
        trainer = GeneratorTrainer(recipe, run, inputs, init)

        def preview(averages: Networks) -> None:
            model = inputs.components(averages)
            if recipe.run.previews:
                run.record(previews.evaluate(run, model, recipe.sampling))
            domain = trainer.words.domain(previews.samples) if trainer.words else Domain()
            save_model(run.folder / "model", model, recipe.sampling, inputs.fingerprint, domain=domain)

        trainer.train(inputs.batches(data, run), preview)
    return run.folder / "model"
