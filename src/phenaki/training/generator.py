"""Training of the second stage. One update, one screen: forward, the loss, backward, the optimizers' step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from phenaki.conditioning import TextConfig, TextEncoder, WordEncoderConfig, encoder_class
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import autocast
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import Shown, shown
from phenaki.data.mixing import collate
from phenaki.generators import Generator, MaskedTransformer, MaskedTransformerSizes
from phenaki.generators.critic import Critic, CriticConfig, build_critic
from phenaki.generators.losses import GeneratorLossConfig, masked_cross_entropy
from phenaki.generators.masking import free_positions, masked_count, random_box, random_mask
from phenaki.media.video import Frames, to_uint8
from phenaki.pipeline import save_model
from phenaki.sampling import SamplingConfig, Scene, story
from phenaki.tokenizers import Tokenizer
from phenaki.training.config import RunConfig
from phenaki.training.inputs import Inputs, open_inputs
from phenaki.training.judging import judging_loss, own_optimizers
from phenaki.training.layers import prepare_layers
from phenaki.training.optim import OptimizerConfig, Optimizers, averaged
from phenaki.training.run import Run
from phenaki.training.sharding import gather_full
from phenaki.training.track import Preview
from phenaki.worlds.shapes import check

_MOST_PROMPTS = 32  # drawn at once


@dataclass(frozen=True)
class PrefixConfig:
    """How many time steps at the start of a clip are given rather than generated, so that stories can be learned.

    Each entry is a number of time steps, each share the part of the samples that have it: of clips that begin a story,
    and of clips that go on from an earlier scene. The paper primes on K = 5 frames, which are 3 time steps.
    `last`: the part of all samples whose last time step is given too, so that interpolation can be learned. `box`: the
    part of which all is given but a box of rows and columns, in all time steps, so that inpainting can.
    `alone`: the part of the steps on clips that learn the first frame by itself, as it is drawn by itself where
    `sampling.first_frame_alone` is set.
    """

    steps: tuple[int, ...] = (0, 1, 3)
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    continued_shares: tuple[float, ...] = (0.0, 0.8, 0.2)
    last: float = 0.0
    box: float = 0.0
    alone: float = 0.0

    def __post_init__(self) -> None:
        if min(self.steps, default=-1) < 0:
            raise PhenakiError(f"prefix.steps {self.steps} must be numbers of time steps, each 0 or more")
        for shares in (self.shares, self.continued_shares):
            gather_full = min(shares, default=-1) >= 0 and abs(sum(shares) - 1) <= 1e-6  # NaN is neither
            if len(shares) != len(self.steps) or not gather_full:
                raise PhenakiError(f"prefix.steps {self.steps} need one share each, 1 in all, not {shares}")

        for name in ("last", "box", "alone"):
            if not 0 <= getattr(self, name) <= 1:
                raise PhenakiError(f"prefix.{name} {getattr(self, name)} must be a share, from 0 to 1")

    def check_causal(self, causal: bool) -> None:
        """Raise PhenakiError if time steps are given, or learned alone, whose ids know of later frames."""
        shares = zip(self.steps, self.shares, self.continued_shares, strict=True)
        given = any(steps and (share or continued) for steps, share, continued in shares)
        if not causal and (given or self.alone):
            named = f"prefix.steps {self.steps}" if given else f"prefix.alone {self.alone}"
            raise PhenakiError(
                f"{named}: this tokenizer is not causal, so the ids of the first time steps of a clip tell of its "
                "later frames and cannot be given, nor learned alone; train with prefix.steps=[0] prefix.shares=[1] "
                "prefix.continued_shares=[1] prefix.alone=0"
            )

    def draw(self, continued: Tensor, latent_frames: int, rng: torch.Generator) -> Tensor:
        """Given time steps int64 (B,) for samples of which `continued` (bool (B,)) go on; at least one stays free."""
        shares = torch.where(continued[:, None], torch.tensor(self.continued_shares), torch.tensor(self.shares))
        drawn = torch.multinomial(shares, 1, generator=rng).squeeze(1)
        return torch.tensor(self.steps)[drawn].clamp_max(latent_frames - 1)

    def free(self, continued: Tensor, grid: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        """Which ids of a grid (t, h, w) are to be generated, bool (B, t, h, w); of each sample at least a time step."""
        prefix = self.draw(continued, grid[0], rng)
        free = free_positions(grid, prefix)
        if self.last:
            ends = (torch.rand(len(prefix), generator=rng) < self.last) & (prefix < grid[0] - 1)
            free = free & ~(ends[:, None] & (torch.arange(grid[0]) == grid[0] - 1))[:, :, None, None]
        if self.box:
            boxed = torch.rand(len(prefix), generator=rng) < self.box
            free = torch.where(boxed[:, None, None, None], random_box(len(prefix), grid, rng), free)
        return free

    def hide(
        self, ids: Tensor, continued: Tensor, rng: torch.Generator, shared: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The ids (B, t, h, w) of a step, cut to the first frames in a part of the steps, and which of them are to be
        generated at all, and which are masked now: bool, like the ids and on their device. `shared`: random numbers
        that are the same in all processes, so that they cut in the same steps."""
        if self.alone and torch.rand((), generator=shared) < self.alone:
            ids = ids[:, :1]
        free = self.free(continued, ids.shape[1:], rng)
        progress = torch.rand(len(ids), generator=rng)
        masked = random_mask(free, masked_count(progress, free.flatten(1).sum(1)), rng)
        return ids, free.to(ids.device), masked.to(ids.device)


@dataclass(frozen=True)
class GeneratorRecipe:
    """All that decides a second-stage run but the tokenizer, which is given by its folder."""

    generator: MaskedTransformerSizes = field(default_factory=MaskedTransformerSizes)
    text: TextConfig = field(default_factory=WordEncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: RunConfig = field(default_factory=RunConfig)


def train_generator(
    recipe: GeneratorRecipe,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    text_encoder: TextEncoder | None = None,
    resume: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Train a generator for a frozen tokenizer, or go on where the run in `folder` stopped.

    The text encoder learns with it, unless it is of a pretrained kind, or `text_encoder`, which stays frozen, is given.
    Token shards bring ids, and maybe text embeddings: then neither network is needed, and the trained model is saved
    without those not given.

    Returns the folder of the model with averaged weights, as `Phenaki.from_pretrained` reads it. Raises PhenakiError
    for a tokenizer or text encoder that does not fit the data, or is another than that of the run in `folder`.
    `resume` and `overwrite` are those of `Run`.
    """
    given = open_inputs(recipe.data, recipe.text, tokenizer, text_encoder)
    recipe.prefix.check_causal(given.causal)
    check_batches(recipe.data, recipe.optimizer, recipe.generator.frames)
    recipe.sampling.check_critic(recipe.critic.kind != "none")
    clips = shown(recipe.data, captions=given.captions, check_caption=given.check_caption)
    prompts = read_prompts(recipe.run.prompts, given)
    frozen = {"tokenizer": given.fingerprint, "text encoder": given.text_fingerprint}
    with Run(folder, recipe.run, recipe, frozen, resume, overwrite) as run:
        device = run.device
        with run.initializing():
            generator = MaskedTransformer(recipe.generator.config(given.facts, given.text_width))
            networks: dict[str, nn.Module] = {"generator": generator}
            if given.learns_text:
                networks["text_encoder"] = encoder_class(recipe.text)(recipe.text)
                given = replace(given, text_encoder=networks["text_encoder"])
            critic = None if recipe.critic.kind == "none" else build_critic(recipe.critic, generator)
        for network in (generator, given.tokenizer, given.text_encoder, critic):
            if network is not None:
                network.to(device)
        learning = list(networks.values())
        if critic is not None:
            networks["critic"] = critic
        averages = {name: averaged(network, recipe.optimizer.ema_decay) for name, network in networks.items()}
        prepare_layers(networks.values(), recipe.run, device, averages.values())
        optimizers = Optimizers(learning, recipe.optimizer, recipe.run.steps)
        reducer = run.gradient_reducer(optimizers.parameters)
        if critic is not None:
            critic_optimizers = own_optimizers(critic, recipe.critic, recipe.optimizer, recipe.run.steps)
            critic_reducer = run.gradient_reducer(critic_optimizers.parameters)
        data = given.batches(recipe.data, run)
        parts = networks | {f"{name}_ema": average for name, average in averages.items()}
        parts |= {"optimizers": optimizers, "data": data}
        parts |= {"critic_optimizers": critic_optimizers} if critic is not None else {}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            batch, rng = run.next(data), run.rng(step)
            ids, continued = given.ids(batch, device), batch["continued"]
            ids, free, masked = recipe.prefix.hide(ids, continued, rng, run.rng(step, shared=True))
            dropped = (torch.rand(len(ids), generator=rng) < recipe.loss.text_drop).to(device)

            with autocast(device, recipe.run.precision):
                read = given.text(batch, device)
                text = generator.drop(read, dropped)
                masked_ids = ids.masked_fill(masked, generator.mask_id)
                features = generator.features(masked_ids, generator.context(text), text.mask)
                logits = generator.head(features[masked])
            weight = torch.ones(ids.shape, device=device)
            weight[:, 0] = recipe.loss.first_frame_weight
            loss = masked_cross_entropy(logits, ids[masked], weight[masked], recipe.loss.label_smoothing)
            objective, metrics = loss, {}
            if critic is not None:
                told = read, dropped, ids, masked, free, logits
                with autocast(device, recipe.run.precision):
                    judged, metrics = judging_loss(critic, generator, *told, recipe.critic.temperature, rng)
                objective = loss + recipe.critic.weight * judged
            objective.backward()
            reducer.finish(objective)
            norm = optimizers.update(step)
            if critic is not None:
                critic_reducer.finish(objective)
                metrics["critic_grad_norm"] = critic_optimizers.update(step)
            if math.isfinite(norm):  # else no step was taken
                for name, average in averages.items():
                    average.update_parameters(networks[name])

            run.log(
                loss=loss.item(),
                accuracy=(logits.argmax(-1) == ids[masked]).float().mean().item(),
                grad_norm=norm,
                lr=optimizers.lr(step),
                **metrics,
            )
            if run.completes(recipe.run.picture_every):
                means = {name: gather_full(average.module).eval() for name, average in averages.items()}
                _show(run, recipe, clips, prompts, given, means)
    return run.folder / "model"


def _show(
    run: Run, recipe: GeneratorRecipe, clips: Shown, prompts: list[str], given: Inputs, means: dict[str, nn.Module]
) -> None:
    """Record what the averaged networks make of clips and prompts, and save them; the main process alone does."""
    if not run.is_main:
        return
    networks = means["generator"], given.tokenizer, means.get("text_encoder", given.text_encoder)
    critic = means.get("critic")
    metrics, picture = evaluate(recipe, clips, given, *networks, critic)
    run.record(metrics)
    if picture is not None:
        run.show("samples", picture, given.facts.fps)
    if prompts:
        made = drawn(prompts, *networks, recipe.sampling, critic)
        run.show("prompts", Preview(made, prompts), given.facts.fps)
    save_model(run.folder / "model", *networks, recipe.sampling, given.fingerprint, critic=critic)


def check_batches(data: DataConfig, optimizer: OptimizerConfig, frames: int) -> None:
    """Raise PhenakiError for clips of other lengths than a generator of so many `frames` writes, and for a batch in
    parts."""
    if max(data.lengths) != frames:
        raise PhenakiError(
            f"data.lengths {data.lengths} and generator.frames {frames}: "
            "the longest clips must have as many frames as the generator is to write"
        )
    if optimizer.accumulate != 1:
        raise PhenakiError(
            f"optimizer.accumulate {optimizer.accumulate} is for tokenizers: a generator takes its batch whole; "
            "lower data.batch"
        )


@torch.no_grad()
def evaluate(
    recipe: GeneratorRecipe,
    clips: Shown,
    given: Inputs,
    generator: MaskedTransformer,
    tokenizer: Tokenizer | None,
    text_encoder: TextEncoder | None,
    critic: Critic | None,
) -> tuple[dict[str, float], Preview | None]:
    """Figures on clips and their captions, and, where there are networks to make them, samples.

    The loss is that of training (weights, smoothing and text dropping aside) at one mask share after another.
    """
    device = next(generator.parameters()).device
    given = replace(given, text_encoder=text_encoder and text_encoder.eval())
    batch = collate(clips.samples)
    ids = given.ids(batch, device)
    with autocast(device, recipe.run.precision):
        text = generator.drop(given.text(batch, device), torch.zeros(len(ids), dtype=torch.bool, device=device))
        free = torch.ones_like(ids, dtype=torch.bool).cpu()
        counts = masked_count(torch.linspace(0, 0.95, len(ids)), free.flatten(1).sum(1))
        masked = random_mask(free, counts, torch.Generator().manual_seed(0)).to(device)
        logits = generator(ids.masked_fill(masked, generator.mask_id), text)
    targets = ids.masked_fill(~masked, -100)
    metrics = {"loss_first": _cross_entropy(logits[:, :1], targets[:, :1])}
    if ids.shape[1] > 1:
        metrics["loss_rest"] = _cross_entropy(logits[:, 1:], targets[:, 1:])
    metrics, picture = {f"{clips.name}/{name}": value for name, value in metrics.items()}, None
    if tokenizer is not None and text_encoder is not None:
        made, picture = sampled(clips, tokenizer, generator, text_encoder, recipe.sampling, critic)
        metrics |= made
    return metrics, picture


def sampled(
    clips: Shown,
    tokenizer: Tokenizer,
    generator: Generator,
    text_encoder: TextEncoder,
    sampling: SamplingConfig,
    critic: Critic | None,
) -> tuple[dict[str, float], Preview]:
    """What is made of the clips' captions and, in the procedural world, figures: the share of prompts, and of single
    claims, that the checker finds true."""
    captions, metrics = [sample.caption for sample in clips.samples], {}
    made, labels = drawn(captions, generator, tokenizer, text_encoder, sampling, critic), captions
    if clips.checkable:
        reports = [check(clip, caption) for clip, caption in zip(made, captions, strict=True)]
        metrics[f"{clips.name}/fulfilled"] = float(np.mean([report.fulfilled for report in reports]))
        claims = [finding.fulfilled for report in reports for finding in report.findings]
        metrics[f"{clips.name}/claims_fulfilled"] = float(np.mean(claims))
        labels = [f"{'+' if report.fulfilled else '-'} {text}" for report, text in zip(reports, captions, strict=True)]
    return metrics, Preview(made[:12], labels[:12])


@torch.no_grad()
def drawn(
    prompts: Sequence[str],
    generator: Generator,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    sampling: SamplingConfig,
    critic: Critic | None,
) -> list[Frames]:
    """A clip of each prompt, uint8 (T, H, W, 3), always from the same noise."""
    numbers = torch.Generator(next(generator.parameters()).device).manual_seed(0)
    scenes = [Scene(tuple(prompts), generator.config.frames)]
    options = {"samples": len(prompts), "critic": critic}
    pieces = story(tokenizer, generator, text_encoder, scenes, sampling, numbers, **options)
    return list(to_uint8(torch.cat(list(pieces), dim=2)))


def read_prompts(path: str, given: Inputs) -> list[str]:
    """The prompts of `run.prompts`: one a line; empty lines, and those that begin with #, are left out.

    Raises PhenakiError for a file that is not there or holds none or too many, for prompts that the text encoder cannot
    read, and where there are no networks to draw them.
    """
    if not path:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PhenakiError(f"run.prompts '{path}' cannot be read as text: {error}") from error
    stripped = [line.strip() for line in lines]
    prompts = [line for line in stripped if line and not line.startswith("#")]
    if not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise PhenakiError(
            f"run.prompts '{path}' holds {len(prompts)} prompts, one a line, and they are drawn all at once: give it 1 "
            f"to {_MOST_PROMPTS}"
        )
    if given.tokenizer is None or not (given.learns_text or given.text_encoder):
        raise PhenakiError(
            f"run.prompts '{path}': without the tokenizer and the text encoder, of which token shards hold what they "
            "made, no prompt can be drawn; name both (--tokenizer, --text-encoder), or no prompts"
        )
    check_prompt = given.check_caption or given.text_encoder.config.check
    for prompt in prompts:
        check_prompt(prompt)
    return prompts


def _cross_entropy(logits: Tensor, targets: Tensor) -> float:
    return nn.functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten()).item()
