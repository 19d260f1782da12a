"""Training of the second stage. One update, one screen: forward, the loss, backward, the optimizers' step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phenaki.data.batches import ShapesBatches, ShapesDataConfig, batches
from phenaki.data.shapes import ShapesWorld, check
from phenaki.errors import PhenakiError
from phenaki.generator import MaskedTransformer, MaskedTransformerSizes
from phenaki.generator.losses import GeneratorLossConfig, masked_cross_entropy
from phenaki.generator.masking import free_positions, masked_count, random_mask
from phenaki.hub import fingerprint
from phenaki.pipeline import Phenaki
from phenaki.precision import autocast
from phenaki.sample import SamplingConfig, Scene, story
from phenaki.text import WordEncoder, WordEncoderConfig
from phenaki.tokenizer import Tokenizer
from phenaki.train.optim import OptimizerConfig, Optimizers, averaged
from phenaki.train.run import Run, RunConfig
from phenaki.video import contact_sheet, to_float, to_uint8, write_image


@dataclass(frozen=True)
class PrefixConfig:
    """How many time steps at the start of a clip are given rather than generated, so that stories can be learned.

    Each entry is a number of time steps, each share the part of the samples that have it: of clips that begin a story,
    and of clips that go on from an earlier scene. The paper primes on K = 5 frames, which are 3 time steps.
    """

    steps: tuple[int, ...] = (0, 1, 3)
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    continued_shares: tuple[float, ...] = (0.0, 0.8, 0.2)

    def __post_init__(self) -> None:
        if min(self.steps, default=-1) < 0:
            raise PhenakiError(f"prefix.steps {self.steps} must be numbers of time steps, each 0 or more")
        for shares in (self.shares, self.continued_shares):
            if len(shares) != len(self.steps) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise PhenakiError(f"prefix.steps {self.steps} need one share each, 1 in all, not {shares}")

    def draw(self, continued: Tensor, time_steps: int, rng: torch.Generator) -> Tensor:
        """Given time steps int64 (B,) for samples of which `continued` (bool (B,)) go on; at least one stays free."""
        shares = torch.where(continued[:, None], torch.tensor(self.continued_shares), torch.tensor(self.shares))
        drawn = torch.multinomial(shares, 1, generator=rng).squeeze(1)
        return torch.tensor(self.steps)[drawn].clamp_max(time_steps - 1)


@dataclass(frozen=True)
class GeneratorRecipe:
    """All that decides a second-stage run but the tokenizer, which is given by its folder."""

    generator: MaskedTransformerSizes = field(default_factory=MaskedTransformerSizes)
    text: WordEncoderConfig = field(default_factory=WordEncoderConfig)
    data: ShapesDataConfig = field(default_factory=ShapesDataConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: RunConfig = field(default_factory=RunConfig)


def train_generator(recipe: GeneratorRecipe, folder: str | Path, tokenizer: Tokenizer) -> Path:
    """Train generator and text encoder for a frozen tokenizer, or go on where the run in `folder` stopped.

    Returns the folder of the whole model with averaged weights, as `Phenaki.from_pretrained` reads it. Raises
    PhenakiError for a tokenizer that does not fit the recipe's data, or is another than the one of the run in `folder`.
    """
    recipe.data.check_size(tokenizer.config.image_size)
    if max(recipe.data.lengths) != recipe.generator.frames:
        raise PhenakiError(
            f"data.lengths {recipe.data.lengths} and generator.frames {recipe.generator.frames}: "
            "the longest clips must have as many frames as the generator is to write"
        )
    torch.manual_seed(recipe.run.seed)
    with Run(folder, recipe.run, recipe, fingerprint(tokenizer)) as run:
        tokenizer = tokenizer.eval().requires_grad_(False).to(run.device)
        text_encoder = WordEncoder(recipe.text).to(run.device)
        generator = MaskedTransformer(recipe.generator.config(tokenizer, text_encoder.width)).to(run.device)
        averages = [averaged(network, recipe.optimizer.ema_decay) for network in (generator, text_encoder)]
        optimizers = Optimizers([generator, text_encoder], recipe.optimizer, recipe.run.steps)
        parts = {
            "generator": generator,
            "text_encoder": text_encoder,
            "generator_ema": averages[0],
            "text_encoder_ema": averages[1],
            "optimizers": optimizers,
        }
        run.restore(parts)
        data = ShapesBatches(recipe.data, tokenizer.patch[0], recipe.run.steps, run.rank, run.world_size)
        stream = batches(data, run.step)

        for step in run.steps(parts):
            batch, rng = next(stream), run.rng(step)
            ids = tokenizer.encode(to_float(batch["video"]).to(run.device))
            prefix = recipe.prefix.draw(batch["continued"], ids.shape[1], rng)
            free = free_positions(ids.shape[1:], prefix)
            progress = torch.rand(len(ids), generator=rng)
            masked = random_mask(free, masked_count(progress, free.flatten(1).sum(1)), rng).to(run.device)
            dropped = (torch.rand(len(ids), generator=rng) < recipe.loss.text_drop).to(run.device)

            with autocast(run.device, recipe.run.precision):
                text = generator.drop(text_encoder(text_encoder.tokenize(batch["captions"]).to(run.device)), dropped)
                given = ids.masked_fill(masked, generator.mask_id)
                features = generator.features(given, generator.context(text), text.mask)
                logits = generator.head(features[masked])
            weight = torch.ones(ids.shape, device=run.device)
            weight[:, 0] = recipe.loss.first_frame_weight
            loss = masked_cross_entropy(logits, ids[masked], weight[masked], recipe.loss.label_smoothing)
            loss.backward()
            run.average_gradients(optimizers.parameters)
            norm = optimizers.update(step)
            averages[0].update_parameters(generator)
            averages[1].update_parameters(text_encoder)

            run.log(
                loss=loss.item(),
                accuracy=(logits.argmax(-1) == ids[masked]).float().mean().item(),
                grad_norm=norm,
                lr=optimizers.lr(step),
            )
            if run.due(recipe.run.picture_every):
                model = Phenaki(tokenizer, averages[0].module, averages[1].module, recipe.sampling)
                figures, picture = look(model, recipe)
                run.record(figures)
                write_image(run.folder / f"samples_{step + 1:07d}.png", picture)
                model.save_pretrained(run.folder / "model")
    return run.folder / "model"


@torch.no_grad()
def look(model: Phenaki, recipe: GeneratorRecipe, prompts: int = 32) -> tuple[dict[str, float], np.ndarray]:
    """Figures on unseen prompts and clips, and a picture of samples with their prompts.

    The loss is that of training (weights, smoothing and text dropping aside) at one mask share after another; fulfilled
    is the share of prompts, and of single claims, that the checker finds true.
    """
    tokenizer, generator, text_encoder = model.tokenizer.eval(), model.generator.eval(), model.text_encoder.eval()
    device = next(generator.parameters()).device
    world = ShapesWorld(
        seed=recipe.data.seed,
        split="test",
        size=recipe.data.size,
        frames=recipe.generator.frames,
        objects=recipe.data.objects or None,
    )
    samples = [world[i] for i in range(prompts)]
    ids = tokenizer.encode(to_float(np.stack([sample.video for sample in samples])).to(device))
    rng = torch.Generator().manual_seed(0)
    with autocast(device, recipe.run.precision):
        text = text_encoder.encode([sample.caption for sample in samples])
        with_null = generator.drop(text, torch.zeros(prompts, dtype=torch.bool, device=device))
        free = torch.ones_like(ids, dtype=torch.bool).cpu()
        masked = random_mask(free, masked_count(torch.linspace(0, 0.95, prompts), free.flatten(1).sum(1)), rng)
        masked = masked.to(device)
        logits = generator(ids.masked_fill(masked, generator.mask_id), with_null)
    targets = ids.masked_fill(~masked, -100)
    losses = {
        name: torch.nn.functional.cross_entropy(part.float().flatten(0, -2), target.flatten()).item()
        for name, part, target in (
            ("test/loss_first", logits[:, :1], targets[:, :1]),
            ("test/loss_rest", logits[:, 1:], targets[:, 1:]),
        )
    }
    scenes = [Scene(tuple(sample.caption for sample in samples), recipe.generator.frames)]
    numbers = torch.Generator(device).manual_seed(0)
    pieces = story(tokenizer, generator, text_encoder, scenes, model.sampling, numbers, samples=prompts)
    clips = to_uint8(torch.cat(list(pieces), dim=2))
    reports = [check(clip, sample.caption) for clip, sample in zip(clips, samples, strict=True)]
    claims = [finding.fulfilled for report in reports for finding in report.findings]
    figures = losses | {
        "test/fulfilled": float(np.mean([report.fulfilled for report in reports])),
        "test/claims_fulfilled": float(np.mean(claims)),
    }
    labels = [f"{'+' if r.fulfilled else '-'} {s.caption}" for r, s in zip(reports[:12], samples[:12], strict=True)]
    return figures, contact_sheet(list(clips[:12]), columns=11, labels=labels)
