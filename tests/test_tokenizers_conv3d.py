"""The convolutional tokenizer: learned frame, streaming, sizes, and training by recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phenaki.core.components import load_component
from phenaki.core.config import from_dict, override, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.nn.state import StreamState
from phenaki.tokenizers import Conv3D, Conv3DConfig, QuantizerConfig
from phenaki.training.recipes import TOKENIZER_RECIPES, conv3d_debug
from phenaki.training.tokenizer import TokenizerRecipe, train_tokenizer

TINY = Conv3DConfig(
    image_size=(16, 16), widths=(8, 12, 16), blocks=(1, 1, 2), quantizer=QuantizerConfig(levels=(5, 5, 5))
)


@pytest.fixture
def tiny() -> Conv3D:
    torch.manual_seed(0)
    return Conv3D(TINY).eval()


def video(frames: int, size: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_learned_frame_affects_the_first_latent_frame(tiny: Conv3D) -> None:
    clip = video(5)
    before = tiny.encode_latents(clip)
    tiny.learned_frame.add_(1)
    assert (tiny.encode_latents(clip) - before)[:, 0].abs().amax(
        -1
    ).min() > 1e-3  # everywhere in the first latent frame


@torch.no_grad()
def test_a_latent_frame_decodes_to_its_own_frames(tiny: Conv3D) -> None:
    latents = torch.randn(1, 4, 2, 2, 16, generator=torch.Generator().manual_seed(0))
    decoded = tiny.decode_latents(latents)
    latents[:, 2] += 1
    moved = (tiny.decode_latents(latents) != decoded).any(1).flatten(2).any(-1)[0]
    assert moved.tolist() == [False] * 3 + [True] * 4  # two of its own, and those after it


@pytest.mark.parametrize("steps", [(1, 1, 1, 1, 1), (2, 3), (4, 1)])
@torch.no_grad()
def test_chunks_equal_one_pass(tiny: Conv3D, steps: tuple[int, ...]) -> None:
    clip, encoding, decoding = video(9), StreamState(), StreamState()
    latents, frames, first = [], [], 0
    for step in steps:
        last = 2 * (encoding.latent_frames + step) - 1
        latents.append(tiny.encode_latents(clip[:, :, first:last], encoding))
        frames.append(tiny.decode_latents(latents[-1], decoding))
        encoding.latent_frames += step
        decoding.latent_frames += step
        first = last
    whole = tiny.encode_latents(clip)
    assert torch.allclose(torch.cat(latents, dim=1), whole, atol=1e-5)
    assert torch.allclose(torch.cat(frames, dim=2), tiny.decode_latents(whole), atol=1e-5)


def test_the_sizes_of_the_full_recipe() -> None:
    config = TOKENIZER_RECIPES["conv3d_128"]().tokenizer
    assert (config.quantizer.codebook_size, config.quantizer.code_dim) == (8192, 16)
    with torch.device("meta"):
        tokenizer = Conv3D(config)
    assert tokenizer.grid(11, 128, 128) == (6, 16, 16)
    assert 41e6 < sum(p.numel() for p in tokenizer.parameters()) < 45e6


@pytest.mark.parametrize("change", [{"widths": (0, 8, 8)}, {"blocks": (1, 1, 0)}, {"image_size": (30, 32)}, {"fps": 0}])
def test_impossible_configurations_are_refused(change: dict) -> None:
    with pytest.raises(PhenakiError, match=next(iter(change))):
        replace(TINY, **change)


@pytest.mark.parametrize("name", TOKENIZER_RECIPES)
def test_a_recipe_is_read_back_with_its_architecture(name: str) -> None:
    recipe = TOKENIZER_RECIPES[name]()
    assert from_dict(TokenizerRecipe, to_dict(recipe)) == recipe


def test_an_override_changes_the_architecture_of_the_recipe_and_names_its_keys() -> None:
    assert override(conv3d_debug(), ["tokenizer.blocks=[1,1,2]"]).tokenizer.blocks == (1, 1, 2)
    with pytest.raises(PhenakiError, match=r"'tokenizer.block'. Did you mean 'blocks'"):
        override(conv3d_debug(), ["tokenizer.block=2"])


def test_it_trains_on_clips_and_images_and_its_folder_rebuilds_it(tmp_path: Path) -> None:
    recipe = conv3d_debug()
    recipe = replace(
        recipe,
        tokenizer=TINY,
        data=replace(recipe.data, size=16, batch=2),
        run=replace(recipe.run, steps=4, log_every=1, eval_every=4),
    )
    loaded = load_component(train_tokenizer(recipe, tmp_path), "tokenizer")
    assert isinstance(loaded, Conv3D)
    assert loaded.config == TINY
    assert loaded.decode(loaded.encode(video(3))).shape == (1, 3, 3, 16, 16)
