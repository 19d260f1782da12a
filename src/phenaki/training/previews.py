"""What a run shows of its networks while it trains: metrics on fixed clips, and clips to look at."""

from __future__ import annotations

import numpy as np
import torch

from phenaki.data.eval_samples import Shown
from phenaki.evaluation.pixels import psnr
from phenaki.media.video import to_float, to_uint8
from phenaki.tokenizers import Tokenizer, code_usage
from phenaki.training.track import Preview


@torch.no_grad()
def evaluate_tokenizer(tokenizer: Tokenizer, clips: Shown) -> tuple[dict[str, float], Preview]:
    """PSNR in dB (mean over clips; of first and other frames) and code usage, and clips beside reconstructions."""
    originals = np.stack([sample.video for sample in clips.samples])
    video = to_float(originals).to(next(tokenizer.parameters()).device)
    ids = tokenizer.encode(video)
    decoded = tokenizer.decode(ids)
    error = (decoded - video).square()
    perplexity, used = code_usage(ids, tokenizer.vocab_size)
    metrics = {
        f"{clips.name}/psnr": float(np.mean(psnr(error))),
        f"{clips.name}/psnr_first": float(np.mean(psnr(error[:, :, :1]))),
        f"{clips.name}/perplexity": perplexity,
        f"{clips.name}/used": used,
    }
    if video.shape[2] > 1:
        metrics[f"{clips.name}/psnr_rest"] = float(np.mean(psnr(error[:, :, 1:])))
    rows = [clip for pair in zip(originals[:6], to_uint8(decoded[:6]), strict=True) for clip in pair]
    return metrics, Preview(rows, ["original", "reconstruction"] * (len(rows) // 2))
