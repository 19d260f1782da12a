"""Properties of every tokenizer of every recipe: causality, prefixes, shapes, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phenaki.core.errors import PhenakiError
from phenaki.tokenizers import Conv3DConfig, CViViTConfig, QuantizerConfig, Tokenizer, TokenizerConfig, build_tokenizer
from phenaki.training.recipes import TOKENIZER_RECIPES


def small(config: TokenizerConfig) -> TokenizerConfig:
    """Small sizes: the tests are about time, not width."""
    sizes = (
        {"widths": (8, 16, 16), "blocks": (1, 1, 2)}
        if isinstance(config, Conv3DConfig)
        else {"patch": (2, 8, 8), "width": 64, "spatial_layers": 2, "temporal_layers": 2}
    )
    return replace(config, image_size=(16, 24), **sizes)


CONFIGS = {small(make().tokenizer): name for name, make in TOKENIZER_RECIPES.items()}  # the last name of equal ones
CONFIGS[small(CViViTConfig(stem=(8, 16)))] = "cvivit_stem"
CONFIGS[small(CViViTConfig(linear_skip=True, quantizer=QuantizerConfig(levels=(8, 8, 8, 8))))] = "cvivit_linear_skip"


@pytest.fixture(params=CONFIGS.keys(), ids=CONFIGS.values(), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(request.param).eval()
    with torch.no_grad():  # as if trained: no layer is close to the identity
        for parameter in tokenizer.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(2)
    return tokenizer


def video(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_encoding_is_causal(tokenizer: Tokenizer) -> None:
    clip = video(2, 3, 11, 16, 24)
    latents, ids = tokenizer.encode_latents(clip), tokenizer.encode(clip)
    for frame in (1, 4, 10):
        changed = clip.clone()
        changed[:, :, frame] = video(2, 3, 16, 24, seed=frame)
        step = (frame + 1) // 2  # the latent frame that holds this frame
        assert torch.equal(tokenizer.encode_latents(changed)[:, :step], latents[:, :step])
        assert torch.equal(tokenizer.encode(changed)[:, :step], ids[:, :step])
        assert not torch.equal(tokenizer.encode_latents(changed)[:, step:], latents[:, step:])


@torch.no_grad()
def test_latents_of_a_prefix_are_a_prefix_of_the_latents(tokenizer: Tokenizer) -> None:
    clip = video(2, 3, 11, 16, 24)
    latents = tokenizer.encode_latents(clip)
    for frames in (1, 3, 7):
        prefix = tokenizer.encode_latents(clip[:, :, :frames])
        assert torch.allclose(prefix, latents[:, : prefix.shape[1]], atol=1e-4)


@torch.no_grad()
def test_decoding_is_causal(tokenizer: Tokenizer) -> None:
    grid, rng = tokenizer.grid(11, 16, 24), torch.Generator().manual_seed(0)
    ids = torch.randint(tokenizer.vocab_size, (2, *grid), generator=rng)
    decoded = tokenizer.decode(ids)
    changed = ids.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % tokenizer.vocab_size
    assert torch.equal(tokenizer.decode(changed)[:, :, :5], decoded[:, :, :5])
    assert not torch.equal(tokenizer.decode(changed)[:, :, 5:], decoded[:, :, 5:])
    assert torch.allclose(tokenizer.decode(ids[:, :2]), decoded[:, :, :3], atol=2e-2)  # bfloat16 where faster


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (3, 8, 24), (11, 24, 16)])
def test_shapes_of_images_rectangles_and_any_length(tokenizer: Tokenizer, frames: int, height: int, width: int) -> None:
    for batch in (1, 3):
        ids = tokenizer.encode(video(batch, 3, frames, height, width))
        assert ids.shape == (batch, 1 + (frames - 1) // 2, height // 8, width // 8 * tokenizer.num_codebooks)
        assert tokenizer.frames(ids.shape[1]) == frames
        decoded = tokenizer.decode(ids)
        assert decoded.shape == (batch, 3, frames, height, width)
        assert decoded.dtype == torch.float32
        assert 0 <= decoded.min() <= decoded.max() <= 1


@torch.no_grad()
def test_samples_of_a_batch_are_independent(tokenizer: Tokenizer) -> None:
    clips = video(3, 3, 5, 16, 24)
    together = tokenizer.encode_latents(clips)
    assert torch.allclose(tokenizer.encode_latents(clips[1:2]), together[1:2], atol=1e-4)


def test_every_parameter_has_a_gradient(tokenizer: Tokenizer) -> None:
    out = tokenizer(video(2, 3, 5, 16, 24))
    (out.video.square().mean() + sum(tokenizer.quantizer.losses(out.quantized).values())).backward()
    still = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    tokenizer.zero_grad()
    assert not still


def test_invalid_lengths_and_sizes_are_refused_with_the_nearest_valid_ones(tokenizer: Tokenizer) -> None:
    with pytest.raises(PhenakiError, match=r"10 frames.*9 and 11"):
        tokenizer.encode(video(1, 3, 10, 32, 32))
    with pytest.raises(PhenakiError, match="height 30 and width 32.*multiple of 8"):
        tokenizer.encode(video(1, 3, 11, 30, 32))
    with pytest.raises(PhenakiError, match=r"4 frames"):
        tokenizer(video(1, 3, 4, 16, 16))


def test_videos_in_another_range_or_layout_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PhenakiError, match=r"from 0 to 255"):
        tokenizer.encode(torch.tensor([0.0, 255.0]).repeat(1, 3, 5, 32, 16))
    with pytest.raises(PhenakiError, match="nan"):
        tokenizer.encode(torch.full((1, 3, 5, 32, 32), float("nan")))
    with pytest.raises(PhenakiError, match="shape"):
        tokenizer.encode(video(1, 5, 32, 32, 5))


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    codes = tokenizer.vocab_size
    with pytest.raises(PhenakiError, match=f"0 to {codes - 1}"):
        tokenizer.decode(torch.full((1, 3, 4, 4), codes))
