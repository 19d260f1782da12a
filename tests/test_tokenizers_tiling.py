"""Tiles: one grid of ids for frames of any size, and no seams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.nn.state import StreamState
from phenaki.tokenizers import CViViT, CViViTConfig, QuantizerConfig, Tiled, Tokenizer
from phenaki.tokenizers.patches import patchify, unpatchify
from phenaki.tokenizers.quantizers import build_quantizer
from phenaki.tokenizers.tiling import linear_blend, nearest_tile, tile_starts

LEVELS = QuantizerConfig(levels=(5, 5))


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> CViViT:
    monkeypatch.setattr("phenaki.core.precision.prefers_bfloat16", lambda device: False)
    torch.manual_seed(0)
    config = CViViTConfig(
        (32, 32),
        patch=(2, 4, 4),
        width=64,
        spatial_layers=1,
        temporal_layers=1,
        quantizer=LEVELS,
    )
    return CViViT(config).eval()


class Lossless(Tokenizer):
    """Latents are the pixels of single frames; records the sizes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.patch = CViViTConfig((32, 32), patch=(1, 8, 8)), (1, 8, 8)
        self.quantizer = build_quantizer(LEVELS, 1)
        self.sizes: list[tuple[int, int]] = []

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        self.sizes.append(tuple(video.shape[3:]))
        return patchify(video, self.patch)

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        return unpatchify(latents, self.patch)


def video(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 3, 4, 8, 16])
def test_tiles_cover_the_frame_and_overlap(size: int) -> None:
    for length in range(size, 5 * size):
        begins = tile_starts(length, size)
        assert begins[0] == 0
        assert begins[-1] + size == length
        overlaps = [a + size - b for a, b in zip(begins, begins[1:], strict=False)]
        assert all(size / 4 <= overlap < size for overlap in overlaps)
        fades, choice = linear_blend(begins, size, length), nearest_tile(begins, size, length)
        assert torch.allclose(fades.sum(0), torch.ones(length))
        assert torch.equal(choice.sum(0), torch.ones(length))
        for number, begin in enumerate(begins):
            outside = torch.ones(length, dtype=torch.bool)
            outside[begin : begin + size] = False
            assert not fades[number, outside].any()
            assert not choice[number, outside].any()


def test_the_blend_is_linear_and_the_nearest_tile_changes_in_its_middle() -> None:
    fades = linear_blend([0, 6], 8, 14)
    assert torch.allclose(fades[0], torch.tensor([1.0] * 6 + [0.75, 0.25] + [0.0] * 6))
    assert nearest_tile([0, 4], 8, 12)[0].tolist() == [1.0] * 6 + [0.0] * 6


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 104), (16, 72), (72, 33 * 8)])
def test_tiles_of_a_lossless_tokenizer_are_lossless(height: int, width: int) -> None:
    tokenizer = Lossless()
    frames = video(2, 3, 3, height, width)
    latents = Tiled(tokenizer).encode_latents(frames)
    assert torch.equal(latents, patchify(frames, (1, 8, 8)))
    assert torch.allclose(Tiled(tokenizer).decode_latents(latents), frames, atol=1e-6)
    assert set(tokenizer.sizes) == {(min(32, height), min(32, width))}


def test_frames_no_larger_than_a_tile_are_processed_whole(tokenizer: CViViT) -> None:
    for clip in (video(2, 3, 5, 32, 32), video(1, 3, 1, 16, 24)):
        ids = tokenizer.encode(clip)
        assert torch.equal(Tiled(tokenizer).encode(clip), ids)
        assert torch.equal(Tiled(tokenizer).decode(ids), tokenizer.decode(ids))


def test_ids_are_those_of_the_nearest_tile(tokenizer: CViViT) -> None:
    clip = video(1, 3, 5, 32, 56)  # tiles of 8 tokens begin at 0 and 6, and meet in the middle of the overlap
    ids = Tiled(tokenizer).encode(clip)
    assert ids.shape == (1, 3, 8, 14)
    assert torch.equal(ids[..., :7], tokenizer.encode(clip[..., :32])[..., :7])
    assert torch.equal(ids[..., 7:], tokenizer.encode(clip[..., 24:])[..., 1:])


def test_decoded_tiles_are_blended(tokenizer: CViViT) -> None:
    ids = torch.randint(tokenizer.vocab_size, (1, 2, 8, 14), generator=torch.Generator().manual_seed(0))
    decoded = Tiled(tokenizer).decode(ids)
    left, right = tokenizer.decode(ids[..., :8]), tokenizer.decode(ids[..., 6:])
    assert torch.allclose(decoded[..., :24], left[..., :24], atol=1e-6)
    assert torch.allclose(decoded[..., 32:], right[..., 8:], atol=1e-6)
    share = (torch.arange(8) + 0.5) / 8
    mixed = (1 - share) * tokenizer_raw(tokenizer, ids[..., :8])[..., 24:]
    mixed = mixed + share * tokenizer_raw(tokenizer, ids[..., 6:])[..., :8]
    assert torch.allclose(decoded[..., 24:32], mixed.clamp(0, 1), atol=1e-5)


@torch.no_grad()
def tokenizer_raw(tokenizer: CViViT, ids: Tensor) -> Tensor:
    return tokenizer.decode_latents(tokenizer.quantizer.indices_to_latents(ids))


def test_tiles_stream(tokenizer: CViViT) -> None:
    tiled = Tiled(tokenizer)
    clip = video(2, 3, 17, 40, 56)
    ids = tiled.encode(clip)
    assert torch.equal(torch.cat(list(tiled.encode_stream(clip.split(3, 2))), 1), ids)
    streamed = torch.cat(list(tiled.decode_stream(ids.split(1, 1))), 2)
    assert torch.allclose(streamed, tiled.decode(ids), atol=1e-4)


def test_tiles_that_do_not_fit_are_refused(tokenizer: CViViT) -> None:
    with pytest.raises(PhenakiError, match="height 30 and width 32.*multiple of 4"):
        Tiled(tokenizer, (30, 32))
    with pytest.raises(PhenakiError, match=r"4x32 pixels cannot overlap.*8x8 or more"):
        Tiled(tokenizer, (4, 32))
    with pytest.raises(PhenakiError, match="height 42 and width 32.*multiple of 4"):
        Tiled(tokenizer).encode(video(1, 3, 1, 42, 32))
