"""Streams: chunks of any size give the ids and pixels of one pass, with a state of bounded size."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.tokenizers import Conv3D, Conv3DConfig, CViViT, CViViTConfig, QuantizerConfig, Tokenizer

LEVELS = QuantizerConfig(levels=(5, 5, 5))
CONFIGS = {
    "cvivit": CViViTConfig((16, 24), width=64, spatial_layers=1, temporal_layers=2, quantizer=LEVELS),
    "cvivit, window 3": CViViTConfig((16, 24), width=64, temporal_layers=1, window=3, quantizer=LEVELS),
    "cvivit, window 1": CViViTConfig((16, 24), width=64, temporal_layers=1, window=1, quantizer=LEVELS),
    "cvivit, patch of 4 frames": CViViTConfig((16, 24), patch=(4, 8, 8), width=64, temporal_layers=1, quantizer=LEVELS),
    "cvivit, patch of 1 frame": CViViTConfig((16, 24), patch=(1, 8, 8), width=64, temporal_layers=1, quantizer=LEVELS),
    "conv3d": Conv3DConfig((16, 24), widths=(8, 8, 16), blocks=(1, 1, 2), quantizer=LEVELS),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    monkeypatch.setattr("phenaki.core.precision.prefers_bfloat16", lambda device: False)
    return make(request.param)


def make(config: CViViTConfig | Conv3DConfig) -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = (CViViT if isinstance(config, CViViTConfig) else Conv3D)(config).eval()
    with torch.no_grad():  # as if trained: no layer is close to the identity
        for parameter in tokenizer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return tokenizer


def video(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cut(whole: Tensor, sizes: Iterable[int], dim: int) -> Iterator[Tensor]:
    """Chunks of these sizes, repeated until the end."""
    for size in itertools.cycle(sizes):
        if not whole.shape[dim]:
            return
        piece, whole = whole.tensor_split([size], dim)
        yield piece


@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 0, 1, 7), (100,)], ids=str)
def test_chunks_of_any_size_equal_one_pass(tokenizer: Tokenizer, sizes: tuple[int, ...]) -> None:
    clips = video(2, 3, tokenizer.frames(17), 16, 24)
    ids = tokenizer.encode(clips)
    assert ids.shape == (2, 17, 2, 3)
    assert torch.equal(torch.cat(list(tokenizer.encode_stream(cut(clips, sizes, 2))), 1), ids)
    decoded = tokenizer.decode(ids)
    assert decoded.shape == clips.shape
    streamed = torch.cat(list(tokenizer.decode_stream(cut(ids, sizes, 1))), 2)
    assert torch.allclose(streamed, decoded, atol=1e-4)


@torch.no_grad()
def test_latents_and_pixels_of_a_stream_equal_one_pass_through_the_networks(tokenizer: Tokenizer) -> None:
    clips = video(2, 3, tokenizer.frames(17), 16, 24)
    latents = tokenizer.encode_latents(clips)
    seen: list[Tensor] = []
    inside = tokenizer.quantizer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ids = torch.cat(list(tokenizer.encode_stream(clips.split(1, 2))), 1)
    inside.remove()
    assert torch.allclose(torch.cat(seen, 1), latents, atol=1e-4)
    whole = tokenizer.decode_latents(tokenizer.quantizer.indices_to_latents(ids)).clamp(0, 1)
    streamed = torch.cat(list(tokenizer.decode_stream(ids.split(1, 1))), 2)
    assert torch.allclose(streamed, whole, atol=1e-4)


def test_ids_are_available_as_soon_as_their_latent_frame_is_complete(tokenizer: Tokenizer) -> None:
    p = tokenizer.patch[0]
    encoder = tokenizer.encoder()
    for frame in range(3 * p + 1):
        ids = encoder.push(video(1, 3, 1, 16, 24, seed=frame))
        assert ids.shape == (1, int(frame % p == 0), 2, 3)
        assert ids.dtype == torch.int64


def test_encoding_a_long_video_is_causal(tokenizer: Tokenizer) -> None:
    clips = video(1, 3, tokenizer.frames(17), 16, 24)
    ids = tokenizer.encode(clips)
    for steps in (6, 7, 12):
        changed = clips.clone()
        changed[:, :, tokenizer.frames(steps) :] = 0.5
        assert torch.equal(tokenizer.encode(changed)[:, :steps], ids[:, :steps])
        assert not torch.equal(tokenizer.encode(changed)[:, steps:], ids[:, steps:])


def test_concurrent_streams_are_independent(tokenizer: Tokenizer) -> None:
    clips = [video(1, 3, tokenizer.frames(9), 16, 24, seed=seed) for seed in (0, 1)]
    streams = [tokenizer.encode_stream(clip.split(1, 2)) for clip in clips]
    for ids, clip in zip(zip(*zip(*streams, strict=True), strict=True), clips, strict=True):
        assert torch.equal(torch.cat(ids, 1), tokenizer.encode(clip))


def test_memory_does_not_grow(tokenizer: Tokenizer) -> None:
    frames = (video(1, 3, 1, 16, 24, seed=number) for number in itertools.count())
    stream = tokenizer.decode_stream(tokenizer.encode_stream(frames))
    sizes = []
    for steps in (11, 20):
        for _ in range(steps):
            next(stream)
        sizes.append(live_bytes())
    assert sizes[0] == sizes[1]


def live_bytes() -> int:
    """Bytes of all tensors of the process, including those held only by a view."""
    gc.collect()
    storages = (each.untyped_storage() for each in gc.get_objects() if type(each) is Tensor)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_the_state_depends_neither_on_the_length_nor_on_the_chunks(tokenizer: Tokenizer) -> None:
    sizes = []
    for steps, n in [(11, 1), (12, 1), (41, 1), (41, 1000)]:
        encoder = tokenizer.encoder()
        for piece in video(1, 3, tokenizer.frames(steps), 16, 24).split(n, 2):
            encoder.push(piece)
        held = [each for each in vars(encoder).values() if isinstance(each, Tensor)]
        sizes.append(encoder.state.nbytes + sum(each.untyped_storage().nbytes() for each in held))
    assert len(set(sizes)) == 1


def test_images_stream(tokenizer: Tokenizer) -> None:
    image = video(3, 3, 1, 16, 24)
    ids = list(tokenizer.encode_stream([image]))
    assert torch.equal(torch.cat(ids, 1), tokenizer.encode(image))
    assert torch.equal(next(tokenizer.decode_stream(ids)), tokenizer.decode(ids[0]))


def test_chunks_of_another_size_are_refused(tokenizer: Tokenizer) -> None:
    encoder = tokenizer.encoder()
    encoder.push(video(1, 3, 2, 16, 24))
    with pytest.raises(PhenakiError, match=r"24x16 for 1 samples after frames of 16x24 for 1 samples"):
        encoder.push(video(1, 3, 1, 24, 16))
    with pytest.raises(PhenakiError, match=r"16x24 for 2 samples after frames of 16x24 for 1 samples"):
        encoder.push(video(2, 3, 1, 16, 24))
    decoder = tokenizer.decoder()
    decoder.push(torch.zeros(1, 1, 2, 3, dtype=torch.long))
    with pytest.raises(PhenakiError, match=r"ids of 2x2 for 1 samples after ids of 2x3 for 1 samples"):
        decoder.push(torch.zeros(1, 1, 2, 2, dtype=torch.long))


def test_invalid_chunks_are_refused_anywhere_in_a_stream(tokenizer: Tokenizer) -> None:
    good = video(1, 3, 1, 16, 24)
    for bad, said in [
        (good * 255, "from 0"),
        (good[..., :20], "multiple of 8"),
        (good[0], "shape"),
        (good.byte(), "uint8"),
    ]:
        with pytest.raises(PhenakiError, match=said):
            list(tokenizer.encode_stream([good, bad]))
    with pytest.raises(PhenakiError, match="0 to 124"):
        list(tokenizer.decode_stream([torch.zeros(1, 1, 2, 3, dtype=torch.long), torch.full((1, 1, 2, 3), 125)]))


def test_a_stream_that_ends_within_a_latent_frame_names_valid_lengths() -> None:
    tokenizer = make(CONFIGS["cvivit"])
    stream = tokenizer.encode_stream(video(1, 3, 14, 16, 24).split(3, 2))
    with pytest.raises(PhenakiError, match=r"14 frames.*13 and 15"):
        list(stream)
    with pytest.raises(PhenakiError, match="0 frames"):
        list(tokenizer.encode_stream([]))


def test_a_non_causal_tokenizer_encodes_clips_and_refuses_streams() -> None:
    tokenizer = make(CONFIGS["cvivit"])
    clip = video(1, 3, 5, 16, 24)
    ids = tokenizer.encode(clip)
    tokenizer.causal = False
    assert torch.equal(tokenizer.encode(clip), ids)
    assert tokenizer.decode(ids).shape == clip.shape
    for stream in (tokenizer.encoder, tokenizer.decoder):
        with pytest.raises(PhenakiError, match="not causal"):
            stream()
