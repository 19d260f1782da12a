"""C-ViViT: receptive field, patches, sizes. Causality is tested in test_tokenizers_contract.py."""

from __future__ import annotations

import pytest
import torch

from phenaki.core.errors import PhenakiError
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig
from phenaki.tokenizers.cvivit import patchify, unpatchify


def video(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_token_attends_to_its_frame_and_all_earlier_ones() -> None:
    torch.manual_seed(0)
    tokenizer = CViViT(CViViTConfig(image_size=(32, 32), width=64, spatial_layers=1, temporal_layers=1)).eval()
    clip = video(1, 3, 5, 32, 32)
    latents = tokenizer.encode_latents(clip)
    changed = clip.clone()
    changed[:, :, 0, :8, :8] = 0
    moved = (tokenizer.encode_latents(changed) - latents).abs().amax(-1)[0] > 0
    assert moved[0].all()  # the corner reaches every token of its frame
    assert moved[2].all()  # and through time every later one


@pytest.mark.parametrize("patch", [(2, 8, 8), (4, 4, 8), (1, 8, 4)])
def test_unpatchify_inverts_patchify(patch: tuple[int, int, int]) -> None:
    clip = video(2, 3, 4, 16, 24)
    patches = patchify(clip, patch)
    assert torch.equal(unpatchify(patches, patch), clip)
    one = clip[0, :, : patch[0], : patch[1], : patch[2]]
    assert torch.equal(patches[0, 0, 0, 0], one.permute(1, 2, 3, 0).flatten())


@pytest.mark.parametrize("change", [{"width": 100}, {"patch": (0, 8, 8)}, {"image_size": (30, 32)}, {"fps": 0.0}])
def test_impossible_configurations_are_refused(change: dict) -> None:
    with pytest.raises(PhenakiError):
        CViViTConfig(**change)


def test_the_paper_sizes() -> None:
    config = CViViTConfig()
    assert config.quantizer == QuantizerConfig(kind="codebook", codebook_size=8192, code_dim=32)
    with torch.device("meta"):
        tokenizer = CViViT(config)
    assert tokenizer.grid(11, 128, 128) == (6, 16, 16)
    assert 45e6 < sum(p.numel() for p in tokenizer.parameters()) < 56e6
