"""Training of the first stage. One update, one screen: forward, each loss by name, backward, the optimizers' step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from phenaki.data.config import DataConfig
from phenaki.data.mix import Batches
from phenaki.data.places import check_holds_clips
from phenaki.data.shown import Shown, shown
from phenaki.evaluate.reconstruction import psnr
from phenaki.hub import save_component
from phenaki.precision import autocast
from phenaki.tokenizer import CViViT, CViViTConfig, Tokenizer, code_usage
from phenaki.tokenizer.losses import TokenizerLossConfig, tokenizer_losses
from phenaki.train.optim import OptimizerConfig, Optimizers, averaged
from phenaki.train.run import Run, RunConfig
from phenaki.video import contact_sheet, to_float, to_uint8, write_image


@dataclass(frozen=True)
class TokenizerRecipe:
    """All that decides a first-stage run."""

    tokenizer: CViViTConfig = field(default_factory=CViViTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def train_tokenizer(recipe: TokenizerRecipe, folder: str | Path) -> Path:
    """Train a tokenizer, or go on where the run in `folder` stopped. Returns the folder of the averaged weights."""
    recipe.data.check_tokenizer(recipe.tokenizer.image_size, recipe.tokenizer.fps)
    for place in recipe.data.places:
        check_holds_clips(place)
    clips = shown(recipe.data, captions=False)
    with Run(folder, recipe.run, recipe) as run:
        with run.initializing():
            tokenizer = CViViT(recipe.tokenizer)
        tokenizer.to(run.device)
        ema = averaged(tokenizer, recipe.optimizer.ema_decay)
        optimizers = Optimizers([tokenizer], recipe.optimizer, recipe.run.steps)
        data = Batches(recipe.data, tokenizer.patch[0], run.rank, run.world_size, captions=False, on_bad=run.leave_out)
        parts = {"tokenizer": tokenizer, "ema": ema, "optimizers": optimizers, "data": data}
        run.restore(parts)

        for step in run.steps(parts, data.prepare):
            video = to_float(next(data)["video"]).to(run.device)

            with autocast(run.device, recipe.run.precision):
                out = tokenizer(video)
            losses = tokenizer_losses(out, video, tokenizer, recipe.loss)
            loss = sum(losses.values())
            loss.backward()
            run.average_gradients(optimizers.parameters)
            norm = optimizers.update(step)
            restarted = tokenizer.quantizer.restart_dead_codes(out.quantized, run.rng(step))
            run.take_from_main(tokenizer.quantizer.state_dict().values())  # each process restarts by its own batch
            ema.update_parameters(tokenizer)

            perplexity, used = code_usage(out.quantized.ids, tokenizer.vocab_size)
            run.log(
                loss=loss.item(),
                **{name: term.item() for name, term in losses.items()},
                psnr=-10 * float(out.video.detach().float().sub(video).square().mean().log10()),
                perplexity=perplexity,
                used=used,
                restarted=restarted,
                grad_norm=norm,
                lr=optimizers.lr(step),
            )
            if run.due(recipe.run.picture_every):
                figures, picture = look(ema.module, clips)
                run.record(figures)
                write_image(run.folder / f"reconstruction_{step + 1:07d}.png", picture)
                save_component(ema.module, run.folder / "tokenizer", "cvivit", recipe.tokenizer)
    return run.folder / "tokenizer"


@torch.no_grad()
def look(tokenizer: Tokenizer, clips: Shown) -> tuple[dict[str, float], np.ndarray]:
    """Figures on clips (PSNR in dB, mean over clips; of first and other frames; code usage), and a picture."""
    originals = np.stack([sample.video for sample in clips.samples])
    video = to_float(originals).to(next(tokenizer.parameters()).device)
    ids = tokenizer.encode(video)
    decoded = tokenizer.decode(ids)
    error = (decoded - video).square()
    perplexity, used = code_usage(ids, tokenizer.vocab_size)
    figures = {
        f"{clips.name}/psnr": float(np.mean(psnr(error))),
        f"{clips.name}/psnr_first": float(np.mean(psnr(error[:, :, :1]))),
        f"{clips.name}/perplexity": perplexity,
        f"{clips.name}/used": used,
    }
    if video.shape[2] > 1:
        figures[f"{clips.name}/psnr_rest"] = float(np.mean(psnr(error[:, :, 1:])))
    rows = [clip for pair in zip(originals[:6], to_uint8(decoded[:6]), strict=True) for clip in pair]
    return figures, contact_sheet(rows, columns=11)
