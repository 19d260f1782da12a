"""A sampler in one file: the latent frames one after the other, each beside the finished ones before it.

python examples/extend/sampler.py "a red circle moves up" circle.mp4
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import phenaki
from phenaki.media.convert import to_uint8
from phenaki.media.writer import write_video
from phenaki.sampling import DecodingConfig, decode
from phenaki.sampling.decoding import LogitsFn
from phenaki.sampling.guidance import cfg_conditions, cfg_logits_fns


def decode_by_frame(
    logits_fn: LogitsFn | Sequence[LogitsFn],
    ids: Tensor,
    known: Tensor,
    mask_id: int,
    config: DecodingConfig,
    rng: torch.Generator,
) -> Tensor:
    """As `decode`, with `config.steps` for each latent frame."""
    ids, known = ids.clone(), known.clone()
    for end in range(1, ids.shape[1] + 1):
        ids[:, :end] = decode(logits_fn, ids[:, :end], known[:, :end], mask_id, config, rng)
        known[:, :end] = True
    return ids


def generate(model: phenaki.Phenaki, prompt: str, seed: int = 0) -> Tensor:
    """Video float (1, 3, T, H, W) in [0, 1]."""
    sampling, rng = model.sampling, torch.Generator(model.device).manual_seed(seed)
    text = model.components.encode_text(prompt, 1)
    conditions = cfg_conditions(model.generator, text, sampling.guidance.uses_cfg)
    logits_fns = cfg_logits_fns(model.generator, conditions, sampling.guidance.scales(sampling.decoding.steps))
    grid = model.tokenizer.grid(model.generator.config.frames, *model.image_size)
    ids = torch.full((1, *grid), model.generator.mask_id, device=model.device)
    known = torch.zeros_like(ids, dtype=torch.bool)
    return model.tokenizer.decode(
        decode_by_frame(logits_fns, ids, known, model.generator.mask_id, sampling.decoding, rng)
    )


if __name__ == "__main__":
    model = phenaki.load("shapes-64")
    video = generate(model, sys.argv[1])
    write_video(sys.argv[2], to_uint8(video[0]), model.fps)
