"""Training of an inverse dynamics model, which scores how well generated video follows its actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.components import save_component
from phenaki.core.errors import PhenakiError
from phenaki.data.batch import Batch, collate
from phenaki.data.config import DataConfig
from phenaki.data.eval_samples import eval_samples
from phenaki.data.loader import Batches
from phenaki.data.opening import action_spec, check_has_clips
from phenaki.evaluation.inverse_dynamics import InverseDynamics, InverseDynamicsConfig, Transitions, button_rates
from phenaki.media.convert import to_float
from phenaki.training.config import RunConfig
from phenaki.training.optim import OptimizerConfig, Optimizers
from phenaki.training.run import Run
from phenaki.training.trainer import Metrics, Networks, Trainer

_CORRUPTED = 0.25  # fraction of the clips that are made unreal
_BLUR, _PATCH = 8, 8  # px
_RAREST = 0.02  # rate of a button in a batch, below which its weight rises no further


@dataclass(frozen=True)
class InverseDynamicsSizes:
    """What a recipe chooses; buttons, frame size and rate are those of the data."""

    features: tuple[int, ...] = (32, 48)
    widths: tuple[int, ...] = (96, 96, 96)
    hidden: int = 256
    reach: tuple[float, float] = (0.1, 0.35)


@dataclass(frozen=True)
class InverseDynamicsRecipe:
    """The complete configuration of the training of an inverse dynamics model."""

    inverse_dynamics: InverseDynamicsSizes = field(default_factory=InverseDynamicsSizes)
    data: DataConfig = field(kw_only=True)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if min(self.data.lengths) < 2:
            raise PhenakiError("a single frame shows no action: data.lengths must be 2 or more")
        if self.optimizer.accumulate > 1:
            raise PhenakiError("optimizer.accumulate must be 1 here: an inverse dynamics model is small")


def corrupt(video: Tensor, rng: torch.Generator) -> Tensor:
    """A clip (3, T, H, W) as no recording looks: blurred, in one colour, noisy, or with its patches shuffled, in each
    frame alike."""
    kind = int(torch.randint(4, (), generator=rng))
    if kind == 0:
        small = F.adaptive_avg_pool2d(video, [max(1, side // _BLUR) for side in video.shape[-2:]])
        return F.interpolate(small, video.shape[-2:], mode="bilinear")
    if kind == 1:
        return video.mean((1, 2, 3), keepdim=True).expand_as(video)
    if kind == 2:
        return torch.lerp(video, torch.rand(video.shape, generator=rng).to(video.device), 0.5)
    rows, columns = (side // _PATCH for side in video.shape[-2:])
    crop = video[..., : rows * _PATCH, : columns * _PATCH]
    patches = crop.unflatten(-2, (rows, _PATCH)).unflatten(-1, (columns, _PATCH)).transpose(-3, -2).flatten(-4, -3)
    patches = patches[..., torch.randperm(rows * columns, generator=rng), :, :]
    crop = patches.unflatten(-3, (rows, columns)).transpose(-3, -2).flatten(-4, -3).flatten(-2)
    return F.pad(crop, (0, video.shape[-1] - crop.shape[-1], 0, video.shape[-2] - crop.shape[-2]))


def compute_loss(scores: Transitions, pressed: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective and its terms, float32 scalars: binary cross-entropies of the buttons, in real clips alone, and of
    being real. Transitions with and without a button weigh the same in sum, or rare buttons would never be found.
    pressed: float (B, N, A). real: bool (B,)."""
    kept = real[:, None, None].float().expand_as(pressed)
    rate = ((pressed * kept).sum((0, 1)) / kept.sum((0, 1)).clamp_min(1)).clamp(_RAREST, 1 - _RAREST)
    weight = kept * torch.where(pressed > 0, 0.5 / rate, 0.5 / (1 - rate))
    buttons = F.binary_cross_entropy_with_logits(scores.pressed, pressed, weight, reduction="sum")
    losses = {
        "loss_buttons": buttons / kept.sum().clamp_min(1),
        "loss_real": F.binary_cross_entropy_with_logits(scores.real, real[:, None].float().expand_as(scores.real)),
    }
    return sum(losses.values()), losses


class InverseDynamicsTrainer(Trainer):
    """An inverse dynamics model in training. columns: of its buttons in the action tables."""

    def __init__(self, recipe: InverseDynamicsRecipe, run: Run, config: InverseDynamicsConfig, columns: list[int]):
        networks = run.initialize(lambda: {"inverse_dynamics": InverseDynamics(config)})
        self.network, self.columns = networks["inverse_dynamics"].to(run.device), columns
        super().__init__(recipe, run, {"inverse_dynamics": self.network}, build_optimizers)

    def update(self, batch: Batch, step: int) -> Metrics:
        rng = self.run.rng(step)
        video = to_float(batch["video"]).to(self.run.device)
        real = torch.rand(len(video), generator=rng) >= _CORRUPTED
        video = torch.stack([clip if good else corrupt(clip, rng) for clip, good in zip(video, real, strict=True)])
        pressed = batch["actions"][:, 1:, self.columns].to(video.device)
        with self.autocast():
            scores = self.network(video)
        loss, losses = compute_loss(scores, pressed, real.to(video.device))
        loss.backward()
        norm = self.take_step("optimizers", loss, step)
        self.update_averages(norm)
        metrics = {"loss": loss.detach()} | {name: value.detach() for name, value in losses.items()}
        return metrics | {"grad_norm": norm, "lr": self.optimizers["optimizers"].lr(step)}


def build_optimizers(networks: Networks, recipe: Any) -> dict[str, Optimizers]:
    return {"optimizers": Optimizers(networks.values(), recipe.optimizer, recipe.run.steps)}


@torch.no_grad()
def accuracies(network: InverseDynamics, samples: Sequence[Any], columns: list[int]) -> dict[str, float]:
    """Balanced accuracy of each button, their mean, and that of telling real clips from corrupted ones, in 0..1."""
    batch, rng = collate(samples), torch.Generator().manual_seed(0)
    video = to_float(batch["video"]).to(next(network.parameters()).device)
    scores = network.score(video)
    pressed = batch["actions"][:, 1:, columns].bool().flatten(0, 1)
    hits, alarms = button_rates(pressed, scores.pressed.cpu().flatten(0, 1))
    balanced = (hits + 1 - alarms) / 2
    unreal = network.score(torch.stack([corrupt(clip, rng) for clip in video])).real
    metrics = {f"accuracy_{name}": float(value) for name, value in zip(network.config.buttons, balanced, strict=True)}
    metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
    right = (float((scores.real > 0).float().mean()) + float((unreal < 0).float().mean())) / 2
    return metrics | {"accuracy": float(balanced.nanmean()), "accuracy_real": right}


def train_inverse_dynamics(
    recipe: InverseDynamicsRecipe, folder: str | Path, resume: str = "auto", overwrite: bool = False
) -> Path:
    """Train an inverse dynamics model on recordings with buttons, or resume the run in `folder`.

    Returns the folder of the averaged weights. Raises PhenakiError for data without buttons. `resume` and `overwrite`
    are those of `Run`.
    """
    for uri in recipe.data.uris:
        check_has_clips(uri)
    spec = action_spec(recipe.data)
    buttons = [name for name, kind in zip(spec.names, spec.kinds, strict=True) if kind == "button"] if spec else []
    if not buttons:
        raise PhenakiError(
            f"'{recipe.data.sources[0].uri}' has no buttons, so no action can be told from its frames: name recordings "
            "whose dataset.json has some"
        )
    config = InverseDynamicsConfig(
        tuple(buttons), recipe.data.image_size, recipe.data.fps, **vars(recipe.inverse_dynamics)
    )
    columns = [spec.index(name) for name in buttons]
    clips = eval_samples(recipe.data, captions=False, actions=True)
    with Run(folder, recipe.run, recipe, resume=resume, overwrite=overwrite) as run:
        trainer = InverseDynamicsTrainer(recipe, run, config, columns)
        loads = {"captions": False, "actions": True, "on_bad": run.skip_sample}
        data = Batches(recipe.data, 1, run.rank, run.world_size, **loads)

        def preview(averages: Networks) -> None:
            found = accuracies(averages["inverse_dynamics"], clips.samples, columns)
            run.record({f"{clips.name}/{name}": value for name, value in found.items()})
            save_component(averages["inverse_dynamics"], run.folder / "inverse_dynamics")

        trainer.train(data, preview)
    return run.folder / "inverse_dynamics"
