"""The first stage: causality, prefixes, shapes, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phenaki.errors import PhenakiError
from phenaki.recipes import TOKENIZER_RECIPES
from phenaki.tokenizer import CViViT, CViViTConfig, QuantizerConfig
from phenaki.tokenizer.cvivit import patchify, unpatchify

# Every recipe's configuration, small enough to run in float32: what is tested is how the layers see time, not how wide
# they are.
CONFIGS = {
    name: replace(make().tokenizer, image_size=(32, 48), width=64, spatial_layers=2, temporal_layers=2)
    for name, make in TOKENIZER_RECIPES.items()
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def recipe_tokenizer(request: pytest.FixtureRequest) -> CViViT:
    torch.manual_seed(0)
    tokenizer = CViViT(request.param).eval()
    with torch.no_grad():  # as after training: no layer is close to the identity
        for parameter in tokenizer.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)
    return tokenizer


def video(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_tokens_do_not_see_later_frames(recipe_tokenizer: CViViT) -> None:
    clip = video(2, 3, 11, 32, 48)
    latents, ids = recipe_tokenizer.latents(clip), recipe_tokenizer.encode(clip)
    for frame in (1, 4, 10):
        changed = clip.clone()
        changed[:, :, frame] = video(2, 3, 32, 48, seed=frame)
        step = (frame + 1) // 2  # the time step that holds this frame
        assert torch.equal(recipe_tokenizer.latents(changed)[:, :step], latents[:, :step])
        assert torch.equal(recipe_tokenizer.encode(changed)[:, :step], ids[:, :step])
        assert not torch.equal(recipe_tokenizer.latents(changed)[:, step:], latents[:, step:])


@torch.no_grad()
def test_tokens_of_a_prefix_are_the_prefix_of_the_tokens(recipe_tokenizer: CViViT) -> None:
    clip = video(2, 3, 11, 32, 48)
    latents = recipe_tokenizer.latents(clip)
    for frames in (1, 3, 7):
        prefix = recipe_tokenizer.latents(clip[:, :, :frames])
        assert torch.allclose(prefix, latents[:, : prefix.shape[1]], atol=1e-4)


@torch.no_grad()
def test_decoding_is_causal_too(recipe_tokenizer: CViViT) -> None:
    ids = torch.randint(recipe_tokenizer.vocab_size, (2, 6, 4, 6), generator=torch.Generator().manual_seed(0))
    decoded = recipe_tokenizer.decode(ids)
    changed = ids.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % recipe_tokenizer.vocab_size
    assert torch.equal(recipe_tokenizer.decode(changed)[:, :, :5], decoded[:, :, :5])
    assert not torch.equal(recipe_tokenizer.decode(changed)[:, :, 5:], decoded[:, :, 5:])
    assert torch.allclose(recipe_tokenizer.decode(ids[:, :2]), decoded[:, :, :3], atol=2e-2)  # bfloat16 where faster


@torch.no_grad()
def test_a_token_sees_its_whole_frame_and_its_whole_past() -> None:
    torch.manual_seed(0)
    tokenizer = CViViT(CViViTConfig(image_size=(32, 32), width=64, spatial_layers=1, temporal_layers=1)).eval()
    clip = video(1, 3, 5, 32, 32)
    latents = tokenizer.latents(clip)
    changed = clip.clone()
    changed[:, :, 0, :8, :8] = 0
    moved = (tokenizer.latents(changed) - latents).abs().amax(-1)[0] > 0
    assert moved[0].all()  # the corner reaches every token of its frame
    assert moved[2].all()  # and through time every later one


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 32, 32), (3, 16, 40), (11, 40, 24)])
def test_shapes_of_images_rectangles_and_any_length(tokenizer: CViViT, frames: int, height: int, width: int) -> None:
    for batch in (1, 3):
        ids = tokenizer.encode(video(batch, 3, frames, height, width))
        assert ids.shape == (batch, 1 + (frames - 1) // 2, height // 8, width // 8)
        assert tokenizer.frames(ids.shape[1]) == frames
        decoded = tokenizer.decode(ids)
        assert decoded.shape == (batch, 3, frames, height, width)
        assert decoded.dtype == torch.float32
        assert 0 <= decoded.min() <= decoded.max() <= 1


def test_samples_of_a_batch_do_not_see_each_other(tokenizer: CViViT) -> None:
    clips = video(3, 3, 5, 32, 32)
    together = tokenizer.latents(clips)
    assert torch.allclose(tokenizer.latents(clips[1:2]), together[1:2], atol=1e-5)


@pytest.mark.parametrize("patch", [(2, 8, 8), (4, 4, 8), (1, 8, 4)])
def test_unpatchify_undoes_patchify(patch: tuple[int, int, int]) -> None:
    clip = video(2, 3, 4, 16, 24)
    patches = patchify(clip, patch)
    assert torch.equal(unpatchify(patches, patch), clip)
    one = clip[0, :, : patch[0], : patch[1], : patch[2]]
    assert torch.equal(patches[0, 0, 0, 0], one.permute(1, 2, 3, 0).flatten())


def test_lengths_and_sizes_that_do_not_fit_are_named_with_the_nearest(tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match=r"10 frames.*9 and 11"):
        tokenizer.encode(video(1, 3, 10, 32, 32))
    with pytest.raises(PhenakiError, match=r"30x32.*multiple of 8"):
        tokenizer.encode(video(1, 3, 11, 30, 32))


def test_videos_in_another_range_or_layout_are_refused(tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match=r"from 0 to 255"):
        tokenizer.encode(torch.tensor([0.0, 255.0]).repeat(1, 3, 5, 32, 16))
    with pytest.raises(PhenakiError, match="nan"):
        tokenizer.encode(torch.full((1, 3, 5, 32, 32), float("nan")))
    with pytest.raises(PhenakiError, match="shape"):
        tokenizer.encode(video(5, 32, 32, 3))
    with pytest.raises(PhenakiError, match="uint8"):
        tokenizer.encode(torch.zeros(1, 3, 5, 32, 32, dtype=torch.uint8))


def test_foreign_ids_are_refused(tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match="0 to 124"):
        tokenizer.decode(torch.full((1, 3, 4, 4), 125))


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
