"""C-ViViT: receptive field, patches, sizes. Causality is tested in test_tokenizers_contract.py."""

from __future__ import annotations

import pytest
import torch

from phenaki.core.errors import PhenakiError
from phenaki.nn.state import StreamState
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig
from phenaki.tokenizers.patches import patchify, unpatchify


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


def make(window: int, layers: int) -> CViViT:
    torch.manual_seed(0)
    sizes = {"width": 64, "spatial_layers": 1, "temporal_layers": layers}
    return CViViT(CViViTConfig(image_size=(16, 16), window=window, **sizes)).eval()


@torch.no_grad()
@pytest.mark.parametrize(("window", "layers"), [(1, 2), (2, 1), (3, 2), (4, 3)])
def test_the_receptive_field_in_time_is_that_of_the_windows_of_all_layers(window: int, layers: int) -> None:
    tokenizer = make(window, layers)
    reach = 1 + layers * (window - 1)
    clip = video(1, 3, 27, 16, 16)
    latents = tokenizer.encode_latents(clip)
    pixels = tokenizer.decode_latents(latents)
    for j in (0, 3):
        changed = clip.clone()
        changed[:, :, max(0, 2 * j - 1) : 2 * j + 1] = 0.5
        moved = (tokenizer.encode_latents(changed) != latents).flatten(2).any(-1)[0]
        assert moved.nonzero().flatten().tolist() == list(range(j, j + reach))
        changed = latents.clone()
        changed[:, j] += 1
        moved = (tokenizer.decode_latents(changed) != pixels)[0].any(0).flatten(1).any(-1)  # of each frame
        assert moved.nonzero().flatten().tolist() == list(range(max(0, 2 * j - 1), 2 * (j + reach) - 1))


@torch.no_grad()
def test_latents_do_not_depend_on_how_long_ago_the_video_began() -> None:
    tokenizer = make(window=3, layers=2)
    clip = video(1, 3, 31, 16, 16)
    latents = tokenizer.encode_latents(clip)
    pixels = tokenizer.decode_latents(latents)
    for dropped in (1, 2, 7):  # latent frames
        later = tokenizer.encode_latents(clip[:, :, 2 * dropped :])
        assert torch.allclose(later[:, 5:], latents[:, dropped + 5 :], atol=1e-4)
        assert not torch.allclose(later[:, :5], latents[:, dropped : dropped + 5], atol=1e-2)
        later = tokenizer.decode_latents(latents[:, dropped:])
        assert torch.allclose(later[:, :, 9:], pixels[:, :, 2 * dropped + 9 :], atol=1e-4)


@torch.no_grad()
def test_within_the_window_attention_is_fully_causal() -> None:
    clip = video(2, 3, 11, 16, 16)
    whole = make(window=100, layers=2).encode_latents(clip)
    assert torch.allclose(make(window=6, layers=2).encode_latents(clip), whole, atol=1e-5)
    assert not torch.allclose(make(window=5, layers=2).encode_latents(clip), whole, atol=1e-2)


def test_training_and_streams_use_the_same_window() -> None:
    tokenizer = make(window=3, layers=2)
    clip = video(2, 3, 19, 16, 16)
    with torch.autocast("cpu", enabled=False):
        out = tokenizer.train()(clip)
    latents, state = [], StreamState()
    for chunk in clip.split([1, *[2] * 9], dim=2):
        latents.append(tokenizer.encode_latents(chunk, state))
        state.latent_frames += 1
    assert torch.equal(tokenizer.quantizer(torch.cat(latents, 1)).ids, out.quantized.ids)


@torch.no_grad()
def test_a_stem_joins_the_pixels_on_both_sides_of_a_patch_border() -> None:
    """Without spatial layers, a latent reaches pixels beyond its patch by the stem alone."""

    def reached(stem: tuple[int, ...]) -> torch.Tensor:
        torch.manual_seed(0)
        config = CViViTConfig(image_size=(32, 32), width=64, spatial_layers=0, temporal_layers=1, stem=stem)
        tokenizer = CViViT(config).eval()
        latents = torch.randn(1, 2, 4, 4, 64)
        changed = latents.clone()
        changed[:, :, 1, 1] += 1
        moved = tokenizer.decode_latents(changed) - tokenizer.decode_latents(latents)
        return moved.abs().amax((0, 1, 2)) > 0

    assert reached(()).nonzero().amin(0).tolist() == [8, 8]
    for border in (reached((8, 16))[7, 8:16], reached((8, 16))[16, 8:16]):
        assert border.all()


@pytest.mark.parametrize("patch", [(2, 8, 8), (4, 4, 8), (1, 8, 4)])
def test_unpatchify_inverts_patchify(patch: tuple[int, int, int]) -> None:
    clip = video(2, 3, 4, 16, 24)
    patches = patchify(clip, patch)
    assert torch.equal(unpatchify(patches, patch), clip)
    one = clip[0, :, : patch[0], : patch[1], : patch[2]]
    assert torch.equal(patches[0, 0, 0, 0], one.permute(1, 2, 3, 0).flatten())


@pytest.mark.parametrize(
    "change",
    [
        {"width": 100},
        {"patch": (0, 8, 8)},
        {"image_size": (30, 32)},
        {"fps": 0.0},
        {"window": 0},
        {"stem": (8, 8, 8, 8)},
        {"stem": (0,)},
    ],
)
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


SKIP = CViViTConfig(
    image_size=(16, 16),
    width=64,
    spatial_layers=1,
    temporal_layers=1,
    stem=(8,),
    linear_skip=True,
    quantizer=QuantizerConfig(levels=(8, 8, 8, 8) * 3, num_codebooks=3),
)


def gratings(clips: int, frames: int, seed: int) -> torch.Tensor:
    """(clips, 3, frames, 16, 16): waves that drift, whose patches have six large components."""
    rng = torch.Generator().manual_seed(seed)
    phase, colour = torch.rand(clips, 1, 1, 1, 1, generator=rng) * 6.28, torch.rand(clips, 3, 1, 1, 1, generator=rng)
    x, time = torch.arange(16).view(1, 1, 1, 1, 16) / 4, torch.arange(frames).view(1, 1, -1, 1, 1) / 5
    return (0.5 * colour + 0.2 * torch.sin(x + phase + time) + 0.2).expand(-1, -1, -1, 16, -1).clamp(0, 1)


@torch.no_grad()
def test_a_linear_skip_starts_at_what_principal_components_reconstruct() -> None:
    torch.manual_seed(0)
    tokenizer = CViViT(SKIP)
    clip = gratings(8, 5, seed=1)

    def mse() -> float:
        return (tokenizer(clip).video - clip).square().mean().item()

    untrained, constant = mse(), (clip - clip.mean()).square().mean().item()
    tokenizer.initialize_from_data([gratings(150, 5, seed=0), gratings(60, 1, seed=2)])
    assert mse() < 0.15 * constant < untrained
    assert torch.allclose(tokenizer(clip[:, :, :1]).video, tokenizer(clip).video[:, :, :1], atol=1e-4)
    ids = tokenizer.eval().encode(clip)
    assert len(ids.unique()) > 100


def test_a_linear_skip_needs_scalar_quantization_and_enough_patches() -> None:
    with pytest.raises(PhenakiError, match="linear_skip .* 'fsq' only, not 'codebook'"):
        CViViTConfig(linear_skip=True)
    with pytest.raises(PhenakiError, match="4 patches are too few for the principal components of 192 pixels"):
        CViViT(SKIP).initialize_from_data([video(1, 3, 3, 16, 16)])
    with pytest.raises(PhenakiError, match="0 patches"):
        CViViT(SKIP).initialize_from_data([])


def test_ids_depend_on_the_linear_maps_to_latents_alone() -> None:
    tokenizer = CViViT(SKIP)
    tokenizer.initialize_from_data([gratings(150, 5, seed=0)])
    encoder = {id(parameter) for parameter in tokenizer.encoder_parameters()}
    assert all(id(parameter) in encoder for parameter in tokenizer.skip.to_latents.parameters())
    assert not any(id(parameter) in encoder for parameter in tokenizer.skip.to_pixels.parameters())
