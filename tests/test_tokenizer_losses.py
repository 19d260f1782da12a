"""The first stage's losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phenaki.errors import PhenakiError
from phenaki.tokenizer import CViViT, Reconstruction
from phenaki.tokenizer.losses import TokenizerLossConfig, tokenizer_losses
from phenaki.tokenizer.quantize import Quantized

ONLY_ALIKE = TokenizerLossConfig(l2=0.0, quantizer=0.0, alike=1.0)


def alike(video: torch.Tensor, codes: torch.Tensor, tokenizer: CViViT) -> torch.Tensor:
    ids = torch.zeros(codes.shape[:-1], dtype=torch.long)
    out = Reconstruction(video, Quantized(codes, ids, codes, codes))
    return tokenizer_losses(out, video, tokenizer, ONLY_ALIKE)["alike"]


def test_the_first_frame_has_its_stated_share(tokenizer: CViViT) -> None:
    video = torch.zeros(1, 3, 5, 16, 16)
    quantized = Quantized(*[torch.zeros(1)] * 4)
    for share in (0.0, 0.25, 1.0):
        config = TokenizerLossConfig(first_frame_share=share)
        wrong_first = torch.zeros_like(video)
        wrong_first[:, :, 0] = 0.5
        found = tokenizer_losses(Reconstruction(wrong_first, quantized), video, tokenizer, config)["l2"]
        assert found == pytest.approx(0.25 * share)


def test_equal_neighbours_are_pulled_together_and_others_are_not(tokenizer: CViViT) -> None:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(2, 3, 2, 2, 3, generator=rng)
    noise = torch.rand(2, 3, 5, 16, 16, generator=rng)
    assert alike(noise, codes, tokenizer) == 0  # no two patches are equal
    still = noise[:, :, :1].expand(-1, -1, 5, -1, -1)
    between_steps = (codes[:, 1:] - codes[:, :-1]).square().mean()
    assert alike(still, codes, tokenizer) == pytest.approx(float(between_steps), rel=1e-5)
    flat = torch.full_like(noise, 0.3)
    assert alike(flat, torch.ones_like(codes), tokenizer) == 0
    assert alike(flat, codes, tokenizer) > 0


def test_images_have_neighbours_in_space_only(tokenizer: CViViT) -> None:
    codes = torch.arange(4.0).view(1, 1, 2, 2, 1)
    flat = torch.full((1, 3, 1, 16, 16), 0.3)
    assert alike(flat, codes, tokenizer) == pytest.approx((1 + 1 + 4 + 4) / 4)


def test_weights_below_zero_are_refused() -> None:
    with pytest.raises(PhenakiError, match="alike -1"):
        replace(TokenizerLossConfig(), alike=-1)
