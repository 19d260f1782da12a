"""Training of a critic for a generator that is trained and stays as it is (Token-Critic, 2209.04439, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from phenaki.core.components import fingerprint
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import autocast
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import Shown, shown
from phenaki.generators.critic import CriticConfig, build_critic
from phenaki.pipeline import Phenaki
from phenaki.training.config import RunConfig
from phenaki.training.generator import PrefixConfig, check_batches, drawn, read_prompts, sampled
from phenaki.training.inputs import open_inputs
from phenaki.training.judging import judging_loss, own_optimizers
from phenaki.training.layers import prepare_layers
from phenaki.training.optim import OptimizerConfig, averaged
from phenaki.training.run import Run
from phenaki.training.sharding import gather_full
from phenaki.training.track import Preview


@dataclass(frozen=True)
class CriticRecipe:
    """All that decides the training of a critic but the model whose ids it judges, which is given by its folder."""

    critic: CriticConfig = field(default_factory=lambda: CriticConfig(kind="token"))
    data: DataConfig = field(default_factory=DataConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.critic.kind == "none":
            raise PhenakiError("critic.kind none leaves nothing to train: take token or self")


def train_critic(
    recipe: CriticRecipe, folder: str | Path, model: Phenaki, resume: str = "auto", overwrite: bool = False
) -> Path:
    """Train a critic for a model, all of which stays as it is, or go on where the run in `folder` stopped.

    Returns the folder of the model with its critic, as `Phenaki.from_pretrained` reads it. Its sampling is that of the
    model; the order "critic" asks the critic. Raises PhenakiError for data that do not fit the model, and for another
    model than that of the run in `folder`. `resume` and `overwrite` are those of `Run`.
    """
    tokenizer, generator, text_encoder = model.tokenizer, model.generator, model.text_encoder
    given = open_inputs(recipe.data, text_encoder.config, tokenizer, text_encoder)
    recipe.prefix.check_causal(given.causal)
    check_batches(recipe.data, recipe.optimizer, generator.config.frames)
    generator.requires_grad_(False)
    clips = shown(recipe.data, captions=given.captions, check_caption=given.check_caption)
    prompts = read_prompts(recipe.run.prompts, given)
    frozen = {"tokenizer": given.fingerprint, "text encoder": given.text_fingerprint}
    frozen |= {"generator": fingerprint(generator)}
    with Run(folder, recipe.run, recipe, frozen, resume, overwrite) as run:
        device = run.device
        model.to(device)
        with run.initializing():
            critic = build_critic(recipe.critic, generator)
        critic.to(device)
        average = averaged(critic, recipe.optimizer.ema_decay)
        prepare_layers([critic], recipe.run, device, [average])
        optimizers = own_optimizers(critic, recipe.critic, recipe.optimizer, recipe.run.steps)
        reducer = run.gradient_reducer(optimizers.parameters)
        data = given.batches(recipe.data, run)
        parts = {"critic": critic, "critic_ema": average, "optimizers": optimizers, "data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            batch, rng = run.next(data), run.rng(step)
            ids, continued = given.ids(batch, device), batch["continued"]
            ids, free, masked = recipe.prefix.hide(ids, continued, rng, run.rng(step, shared=True))
            kept = torch.zeros(len(ids), dtype=torch.bool, device=device)

            with torch.no_grad(), autocast(device, recipe.run.precision):
                read = given.text(batch, device)
                text = generator.drop(read, kept)
                masked_ids = ids.masked_fill(masked, generator.mask_id)
                logits = generator.head(generator.features(masked_ids, generator.context(text), text.mask)[masked])
            told = read, kept, ids, masked, free, logits
            with autocast(device, recipe.run.precision):
                loss, metrics = judging_loss(critic, generator, *told, recipe.critic.temperature, rng)
            (recipe.critic.weight * loss).backward()
            reducer.finish(loss)
            norm = optimizers.update(step)
            if math.isfinite(norm):  # else no step was taken
                average.update_parameters(critic)

            run.log(**metrics, grad_norm=norm, lr=optimizers.lr(step))
            if run.completes(recipe.run.picture_every):
                judged = Phenaki(tokenizer, generator, text_encoder, model.sampling, gather_full(average.module))
                _show(run, clips, prompts, judged)
    return run.folder / "model"


def _show(run: Run, clips: Shown, prompts: list[str], model: Phenaki) -> None:
    """Record what a model draws where its critic is asked, and save it; the main process alone does."""
    if not run.is_main:
        return
    asked, fps = replace(model.sampling, order="critic"), model.tokenizer.config.fps
    test, picture = sampled(clips, model.tokenizer, model.generator, model.text_encoder, asked, model.critic)
    run.record(test)
    run.show("samples", picture, fps)
    if prompts:
        made = drawn(prompts, model.generator, model.tokenizer, model.text_encoder, asked, model.critic)
        run.show("prompts", Preview(made, prompts), fps)
    model.save_pretrained(run.folder / "model")
