"""Training of the second stage. One update, one screen: forward, the loss, backward, the optimizers' step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from phenaki.data.config import DataConfig
from phenaki.data.mix import Batches, collate
from phenaki.data.shapes import check
from phenaki.data.shown import Shown, shown
from phenaki.errors import PhenakiError
from phenaki.generator import MaskedTransformer, MaskedTransformerSizes
from phenaki.generator.losses import GeneratorLossConfig, masked_cross_entropy
from phenaki.generator.masking import free_positions, masked_count, random_mask
from phenaki.pipeline import save_model
from phenaki.precision import autocast
from phenaki.sample import SamplingConfig, Scene, story
from phenaki.text import TextConfig, TextEncoder, WordEncoderConfig, encoder_class
from phenaki.tokenizer import Tokenizer
from phenaki.train.inputs import Inputs, open_inputs
from phenaki.train.optim import OptimizerConfig, Optimizers, averaged
from phenaki.train.run import Run, RunConfig
from phenaki.video import contact_sheet, to_uint8, write_image


@dataclass(frozen=True)
class PrefixConfig:
    """How many time steps at the start of a clip are given rather than generated, so that stories can be learned.

    Each entry is a number of time steps, each share the part of the samples that have it: of clips that begin a story,
    and of clips that go on from an earlier scene. The paper primes on K = 5 frames, which are 3 time steps.
    `last`: the part of all samples whose last time step is given too, so that interpolation can be learned.
    """

    steps: tuple[int, ...] = (0, 1, 3)
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    continued_shares: tuple[float, ...] = (0.0, 0.8, 0.2)
    last: float = 0.0

    def __post_init__(self) -> None:
        if min(self.steps, default=-1) < 0:
            raise PhenakiError(f"prefix.steps {self.steps} must be numbers of time steps, each 0 or more")
        for shares in (self.shares, self.continued_shares):
            whole = min(shares, default=-1) >= 0 and abs(sum(shares) - 1) <= 1e-6  # NaN is neither
            if len(shares) != len(self.steps) or not whole:
                raise PhenakiError(f"prefix.steps {self.steps} need one share each, 1 in all, not {shares}")

        if not 0 <= self.last <= 1:
            raise PhenakiError(f"prefix.last {self.last} must be a share of the samples, from 0 to 1")

    def check_causal(self, causal: bool) -> None:
        """Raise PhenakiError if time steps are given to samples whose first ids know of later frames."""
        shares = zip(self.steps, self.shares, self.continued_shares, strict=True)
        if not causal and any(steps and (share or continued) for steps, share, continued in shares):
            raise PhenakiError(
                f"prefix.steps {self.steps}: this tokenizer is not causal, so the ids of the first time steps of a "
                "clip tell of its later frames and cannot be given; train with prefix.steps=[0] prefix.shares=[1] "
                "prefix.continued_shares=[1]"
            )

    def draw(self, continued: Tensor, time_steps: int, rng: torch.Generator) -> Tensor:
        """Given time steps int64 (B,) for samples of which `continued` (bool (B,)) go on; at least one stays free."""
        shares = torch.where(continued[:, None], torch.tensor(self.continued_shares), torch.tensor(self.shares))
        drawn = torch.multinomial(shares, 1, generator=rng).squeeze(1)
        return torch.tensor(self.steps)[drawn].clamp_max(time_steps - 1)

    def free(self, continued: Tensor, grid: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        """Which ids of a grid (t, h, w) are to be generated, bool (B, t, h, w); of each sample at least a time step."""
        prefix = self.draw(continued, grid[0], rng)
        free = free_positions(grid, prefix)
        if not self.last:
            return free
        ends = (torch.rand(len(prefix), generator=rng) < self.last) & (prefix < grid[0] - 1)
        return free & ~(ends[:, None] & (torch.arange(grid[0]) == grid[0] - 1))[:, :, None, None]


@dataclass(frozen=True)
class GeneratorRecipe:
    """All that decides a second-stage run but the tokenizer, which is given by its folder."""

    generator: MaskedTransformerSizes = field(default_factory=MaskedTransformerSizes)
    text: TextConfig = field(default_factory=WordEncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: RunConfig = field(default_factory=RunConfig)


def train_generator(
    recipe: GeneratorRecipe,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    text_encoder: TextEncoder | None = None,
) -> Path:
    """Train a generator for a frozen tokenizer, or go on where the run in `folder` stopped.

    The text encoder learns with it, unless it is of a pretrained kind, or `text_encoder`, which stays frozen, is given.
    Token shards bring ids, and maybe text embeddings: then neither network is needed, and the trained model is saved
    without those not given.

    Returns the folder of the model with averaged weights, as `Phenaki.from_pretrained` reads it. Raises PhenakiError
    for a tokenizer or text encoder that does not fit the data, or is another than that of the run in `folder`.
    """
    given = open_inputs(recipe.data, recipe.text, tokenizer, text_encoder)
    recipe.prefix.check_causal(given.causal)
    if max(recipe.data.lengths) != recipe.generator.frames:
        raise PhenakiError(
            f"data.lengths {recipe.data.lengths} and generator.frames {recipe.generator.frames}: "
            "the longest clips must have as many frames as the generator is to write"
        )
    if recipe.optimizer.accumulate != 1:
        raise PhenakiError(
            f"optimizer.accumulate {recipe.optimizer.accumulate} is for tokenizers: a generator takes its batch whole; "
            "lower data.batch"
        )
    clips = shown(recipe.data, captions=given.captions, check_caption=given.check_caption)
    frozen = {"tokenizer": given.fingerprint, "text encoder": given.text_fingerprint}
    with Run(folder, recipe.run, recipe, frozen) as run:
        device = run.device
        with run.initializing():
            generator = MaskedTransformer(recipe.generator.config(given.facts, given.text_width))
            networks: dict[str, nn.Module] = {"generator": generator}
            if given.learns_text:
                networks["text_encoder"] = encoder_class(recipe.text)(recipe.text)
                given = replace(given, text_encoder=networks["text_encoder"])
        for network in (generator, given.tokenizer, given.text_encoder):
            if network is not None:
                network.to(device)
        averages = {name: averaged(network, recipe.optimizer.ema_decay) for name, network in networks.items()}
        optimizers = Optimizers(networks.values(), recipe.optimizer, recipe.run.steps)
        data = Batches(
            recipe.data,
            given.facts.patch[0],
            run.rank,
            run.world_size,
            given.captions,
            check_caption=given.check_caption,
            on_bad=run.leave_out,
        )
        parts = networks | {f"{name}_ema": average for name, average in averages.items()}
        parts |= {"optimizers": optimizers, "data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            batch, rng = next(data), run.rng(step)
            ids = given.ids(batch, device)
            free = recipe.prefix.free(batch["continued"], ids.shape[1:], rng)
            progress = torch.rand(len(ids), generator=rng)
            masked = random_mask(free, masked_count(progress, free.flatten(1).sum(1)), rng).to(device)
            dropped = (torch.rand(len(ids), generator=rng) < recipe.loss.text_drop).to(device)

            with autocast(device, recipe.run.precision):
                text = generator.drop(given.text(batch, device), dropped)
                masked_ids = ids.masked_fill(masked, generator.mask_id)
                features = generator.features(masked_ids, generator.context(text), text.mask)
                logits = generator.head(features[masked])
            weight = torch.ones(ids.shape, device=device)
            weight[:, 0] = recipe.loss.first_frame_weight
            loss = masked_cross_entropy(logits, ids[masked], weight[masked], recipe.loss.label_smoothing)
            loss.backward()
            run.average_gradients(optimizers.parameters)
            norm = optimizers.update(step)
            for name, average in averages.items():
                average.update_parameters(networks[name])

            run.log(
                loss=loss.item(),
                accuracy=(logits.argmax(-1) == ids[masked]).float().mean().item(),
                grad_norm=norm,
                lr=optimizers.lr(step),
            )
            if run.due(recipe.run.picture_every):
                reader = averages["text_encoder"].module if given.learns_text else given.text_encoder
                whole = averages["generator"].module.eval(), given.tokenizer, reader
                figures, picture = look(recipe, clips, given, *whole)
                run.record(figures)
                if picture is not None:
                    write_image(run.folder / f"samples_{step + 1:07d}.png", picture)
                save_model(run.folder / "model", *whole, recipe.sampling, given.fingerprint)
    return run.folder / "model"


@torch.no_grad()
def look(
    recipe: GeneratorRecipe,
    clips: Shown,
    given: Inputs,
    generator: MaskedTransformer,
    tokenizer: Tokenizer | None,
    text_encoder: TextEncoder | None,
) -> tuple[dict[str, float], np.ndarray | None]:
    """Figures on clips and their captions, and, where there are networks to make one, a picture of samples.

    The loss is that of training (weights, smoothing and text dropping aside) at one mask share after another;
    fulfilled, in the procedural world, is the share of prompts, and of single claims, that the checker finds true.
    """
    device = next(generator.parameters()).device
    given = replace(given, text_encoder=text_encoder and text_encoder.eval())
    batch = collate(clips.samples)
    ids, captions = given.ids(batch, device), tuple(batch["captions"])
    with autocast(device, recipe.run.precision):
        text = generator.drop(given.text(batch, device), torch.zeros(len(ids), dtype=torch.bool, device=device))
        free = torch.ones_like(ids, dtype=torch.bool).cpu()
        counts = masked_count(torch.linspace(0, 0.95, len(ids)), free.flatten(1).sum(1))
        masked = random_mask(free, counts, torch.Generator().manual_seed(0)).to(device)
        logits = generator(ids.masked_fill(masked, generator.mask_id), text)
    targets = ids.masked_fill(~masked, -100)
    figures = {"loss_first": _cross_entropy(logits[:, :1], targets[:, :1])}
    if ids.shape[1] > 1:
        figures["loss_rest"] = _cross_entropy(logits[:, 1:], targets[:, 1:])
    picture = None
    if tokenizer is not None and text_encoder is not None:
        numbers = torch.Generator(device).manual_seed(0)
        scenes = [Scene(captions, recipe.generator.frames)]
        pieces = story(tokenizer, generator, text_encoder, scenes, recipe.sampling, numbers, samples=len(captions))
        made, labels = to_uint8(torch.cat(list(pieces), dim=2)), list(captions)
        if clips.checkable:
            reports = [check(clip, caption) for clip, caption in zip(made, captions, strict=True)]
            figures["fulfilled"] = float(np.mean([report.fulfilled for report in reports]))
            figures["claims_fulfilled"] = float(np.mean([f.fulfilled for report in reports for f in report.findings]))
            labels = [
                f"{'+' if report.fulfilled else '-'} {text}" for report, text in zip(reports, captions, strict=True)
            ]
        picture = contact_sheet(list(made[:12]), columns=11, labels=labels[:12])
    return {f"{clips.name}/{name}": value for name, value in figures.items()}, picture


def _cross_entropy(logits: Tensor, targets: Tensor) -> float:
    return nn.functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten()).item()
