"""Models of `phenaki-pytorch`, of the sizes of ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

PATCH = {"patch_size": 8, "temporal_patch_size": 2, "use_vgg_and_gan": False}


def build_cvivit(width: int, layers: int, head: int, codes: int, image_size: int, **options: Any) -> nn.Module:
    """A C-ViViT without discriminator and perceptual loss. `layers`: of each of its four transformers."""
    from phenaki_pytorch import CViViT

    sizes = {"dim": width, "dim_head": head, "heads": width // head, "spatial_depth": layers, "temporal_depth": layers}
    return CViViT(codebook_size=codes, image_size=image_size, **sizes, **PATCH, **options)


def build_phenaki(
    width: int, layers: int, head: int, codes: int, grid: tuple[int, int, int], text_width: int, **options: Any
) -> nn.Module:
    """A `Phenaki` whose `maskgit` has these sizes, and a small C-ViViT that is not meant to be used."""
    from phenaki_pytorch import MaskGit, Phenaki
    from phenaki_pytorch.t5 import T5_CONFIGS

    T5_CONFIGS["none"] = {"config": SimpleNamespace(d_model=text_width)}  # otherwise it downloads that of a T5
    t, h, w = grid
    sizes = {"dim": width, "heads": width // head, "dim_head": head, "depth": layers}
    maskgit = MaskGit(num_tokens=codes, max_seq_len=t * h * w, dim_context=text_width, **sizes)
    cvivit = build_cvivit(width, 1, head, 1024, 8 * h)
    return Phenaki(maskgit=maskgit, cvivit=cvivit, t5_name="none", text_embed_dim=text_width, **options)
