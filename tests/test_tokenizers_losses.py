"""Losses of the tokenizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phenaki.core.errors import PhenakiError
from phenaki.perceptual import I3D, LPIPS, PerceptualNetworks
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig, Reconstruction
from phenaki.tokenizers.losses import (
    TokenizerLossConfig,
    code_losses,
    perceptual_losses,
    pixel_losses,
    sample_frames,
)
from phenaki.tokenizers.quantizers import Quantized


def token_consistency(video: torch.Tensor, codes: torch.Tensor, tokenizer: CViViT) -> torch.Tensor:
    ids = torch.zeros(codes.shape[:-1], dtype=torch.long)
    out = Reconstruction(video, Quantized(codes, ids, codes, codes))
    return code_losses(out, video, tokenizer, TokenizerLossConfig(token_consistency=1.0))["token_consistency"]


def test_the_first_frame_has_its_fraction() -> None:
    video = torch.zeros(1, 3, 5, 16, 16)
    for share in (0.0, 0.25, 1.0):
        config = TokenizerLossConfig(l1=2.0, first_frame_fraction=share)
        wrong_first = torch.zeros_like(video)
        wrong_first[:, :, 0] = 0.5
        found = pixel_losses(wrong_first, video, config)
        assert found["l2"] == pytest.approx(0.25 * share)
        assert found["l1"] == pytest.approx(2 * 0.5 * share)


def test_the_gradient_loss_compares_edges_and_not_colours() -> None:
    video = torch.zeros(1, 3, 5, 16, 16)
    edge = video.clone()
    edge[..., 8:] = 0.5  # one step in each row: 1 of 15 differences along columns, none along rows
    config = TokenizerLossConfig(gradient=3.0)
    assert pixel_losses(video + 0.2, video, config)["gradient"] == pytest.approx(0, abs=1e-6)
    assert pixel_losses(edge, video, config)["gradient"] == pytest.approx(3 * 0.5 / 15)
    assert pixel_losses(edge + 0.2, edge, config)["gradient"] == pytest.approx(0, abs=1e-6)


def test_only_equal_neighbours_are_pulled_together(tokenizer: CViViT) -> None:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(2, 3, 2, 2, 3, generator=rng)
    noise = torch.rand(2, 3, 5, 16, 16, generator=rng)
    assert token_consistency(noise, codes, tokenizer) == 0  # no two patches are equal
    still = noise[:, :, :1].expand(-1, -1, 5, -1, -1)
    between_steps = (codes[:, 1:] - codes[:, :-1]).square().mean()
    assert token_consistency(still, codes, tokenizer) == pytest.approx(float(between_steps), rel=1e-5)
    flat = torch.full_like(noise, 0.3)
    assert token_consistency(flat, torch.ones_like(codes), tokenizer) == 0
    assert token_consistency(flat, codes, tokenizer) > 0


def test_images_have_neighbours_in_space_only(tokenizer: CViViT) -> None:
    codes = torch.arange(4.0).view(1, 1, 2, 2, 1)
    flat = torch.full((1, 3, 1, 16, 16), 0.3)
    assert token_consistency(flat, codes, tokenizer) == pytest.approx((1 + 1 + 4 + 4) / 4)


@pytest.mark.parametrize(
    ("quantizer", "weights"),
    [
        (QuantizerConfig(levels=(4, 4)), {}),
        (QuantizerConfig(kind="codebook", codebook_size=8, commitment=0.5), {"codebook": 3.0, "commitment": 1.5}),
        (QuantizerConfig(kind="lookup_free", codebook_size=8, commitment=0.5), {"entropy": 0.2, "commitment": 1.5}),
    ],
    ids=lambda value: value.kind if isinstance(value, QuantizerConfig) else "",
)
def test_the_quantizers_terms_have_their_weights(quantizer: QuantizerConfig, weights: dict[str, float]) -> None:
    torch.manual_seed(0)
    tokenizer = CViViT(CViViTConfig((16, 16), width=64, spatial_layers=1, temporal_layers=1, quantizer=quantizer))
    video = torch.rand(2, 3, 3, 16, 16)
    out = tokenizer(video)
    terms = tokenizer.quantizer.losses(out.quantized)
    found = code_losses(out, video, tokenizer, TokenizerLossConfig(quantizer=3.0, entropy=0.2))
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert found[name].item() == pytest.approx(weight * terms[name].item())
    assert code_losses(out, video, tokenizer, TokenizerLossConfig(quantizer=0.0, entropy=0.0)) == {}


def test_the_texture_loss_compares_how_much_and_not_where() -> None:
    torch.manual_seed(0)
    config, video = TokenizerLossConfig(texture=2.0), torch.rand(1, 3, 2, 16, 16)
    assert pixel_losses(video + 0.2, video, config)["texture"] == pytest.approx(0, abs=1e-6)
    blurred = pixel_losses(video.mean((3, 4), keepdim=True).expand_as(video), video, config)["texture"]
    assert pixel_losses(video.flip(3), video, config)["texture"] < 0.3 * blurred
    tiles = torch.rand(1, 3, 2, 1, 1) * (torch.arange(16) % 2)  # stripes: moved by a pixel they are no nearer in pixels
    stripes = tiles.expand(-1, -1, -1, 16, -1)
    assert pixel_losses(1 - stripes, stripes, config)["texture"] == pytest.approx(0, abs=1e-6)


def test_perceptual_losses_have_gradients_for_the_reconstruction_only() -> None:
    torch.manual_seed(0)
    networks = PerceptualNetworks(
        LPIPS(width=2).eval().requires_grad_(False), I3D(narrow=16).eval().requires_grad_(False)
    )
    config = TokenizerLossConfig(lpips=0.1, i3d=1.0)
    video, made = torch.rand(1, 3, 3, 16, 16), torch.rand(1, 3, 3, 16, 16, requires_grad=True)
    found = perceptual_losses(made, video, torch.tensor([1]), networks, config)
    assert found["lpips"].item() == pytest.approx(0.1 * networks.lpips(made[:, :, 1:2], video[:, :, 1:2]).item())
    (gradient,) = torch.autograd.grad(found["lpips"], made)
    assert gradient[:, :, 1].any()
    assert not gradient[:, :, ::2].any()
    found["i3d"].backward()
    assert made.grad.any()
    assert all(parameter.grad is None for network in networks for parameter in network.parameters())
    same = perceptual_losses(video, video, torch.arange(3), networks, config)
    assert same["lpips"] == same["i3d"] == 0
    image = perceptual_losses(made[:, :, :1], video[:, :, :1], torch.arange(1), networks, config)
    assert image.keys() == {"lpips"}
    assert perceptual_losses(made, video, torch.arange(3), PerceptualNetworks(), config) == {}


def test_frames_are_sampled_without_replacement() -> None:
    rng = torch.Generator().manual_seed(0)
    assert sample_frames(5, TokenizerLossConfig(), rng).tolist() == [0, 1, 2, 3, 4]
    drawn = [sample_frames(5, TokenizerLossConfig(frames=2), rng).tolist() for _ in range(50)]
    assert all(len(set(frames)) == 2 for frames in drawn)
    assert {frame for frames in drawn for frame in frames} == {0, 1, 2, 3, 4}
    assert sample_frames(1, TokenizerLossConfig(frames=2), rng).tolist() == [0]


def test_negative_weights_and_all_zero_weights_are_refused() -> None:
    for name in ("l2", "l1", "quantizer", "entropy", "lpips", "i3d", "adversarial", "token_consistency", "frames"):
        with pytest.raises(PhenakiError, match=f"{name} -1"):
            replace(TokenizerLossConfig(), **{name: -1})
    with pytest.raises(PhenakiError, match="nothing trains the pixels"):
        TokenizerLossConfig(l2=0.0, i3d=1.0)
