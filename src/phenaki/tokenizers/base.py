"""The contract of a tokenizer (first stage): video to a small grid of discrete ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from phenaki.core.arguments import check_types
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import frame_count
from phenaki.core.precision import Precision, autocast
from phenaki.core.pretrained import PretrainedComponent
from phenaki.media.inputs import VideoInput, as_video
from phenaki.nn.state import StreamState
from phenaki.tokenizers.quantizers import Quantized
from phenaki.tokenizers.spec import Grid, TokenizerSpec
from phenaki.tokenizers.streaming import StreamDecoder, StreamEncoder


class Reconstruction(NamedTuple):
    """Output of a tokenizer's forward pass: video float (B, 3, T, H, W), not clamped, and the quantizer's output."""

    video: Tensor
    quantized: Quantized


class Tokenizer(PretrainedComponent, ABC):
    """Video float (B, 3, T, H, W) in [0, 1] <-> ids int64 (B, t, h, w) with t = 1 + (T - 1) / p. With C codebooks there
    are C ids for each column of patches.

    Subclasses set `config` (with `fps` and `image_size`), `patch` = (p frames, rows, columns) and `quantizer`, and
    define `encode_latents` and `decode_latents`.

    causal: whether the ids of a latent frame are independent of later frames. Only imported models are not causal.
    precision: of `encode` and `decode`; training has its own.
    """

    patch: tuple[int, int, int]
    causal: bool = True
    precision: Precision = "auto"
    dtypes = (torch.float32,)  # quantizers compute in it

    @property
    def vocab_size(self) -> int:
        """Of each codebook."""
        return self.quantizer.vocab_size

    @property
    def num_codebooks(self) -> int:
        """Ids of a position of the grid, neighbours in a row."""
        return self.quantizer.num_codebooks

    @property
    def last_layer(self) -> list[nn.Parameter]:
        """Weights of the decoder's last layer, where the adaptive adversarial weight compares gradients."""
        raise PhenakiError(f"{type(self).__name__} defines no last layer: train it with discriminator.adaptive=false")

    def initialize_from_data(self, videos: Iterable[Tensor]) -> None:  # noqa: B027, most have nothing to start
        """Start weights that depend on data, before training. videos: float (B, 3, T, H, W) in [0, 1]."""

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those that ids depend on: of the encoder, and some of the quantizer's."""
        parameter, (height, width) = next(self.parameters()), self.config.image_size
        video = torch.zeros(1, 3, 1 + self.patch[0], height, width, device=parameter.device)
        with torch.enable_grad():
            quantized = self.quantizer(self.encode_latents(video))
            codes, parameters = quantized.before.sum() + quantized.after.sum(), list(self.parameters())
            gradients = torch.autograd.grad(codes, parameters, allow_unused=True)
        return [each for each, gradient in zip(parameters, gradients, strict=True) if gradient is not None]

    @property
    def spec(self) -> TokenizerSpec:
        size = tuple(self.config.image_size)
        return TokenizerSpec(self.vocab_size, tuple(self.patch), size, self.config.fps, self.num_codebooks)

    @check_types
    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip. Raises PhenakiError for lengths and sizes that do not fit the patches."""
        return self.spec.grid(frames, height, width)

    def frames(self, t: int) -> int:
        """Frames T of a clip of t latent frames: the inverse of `grid`."""
        return frame_count(t, self.patch[0])

    @abstractmethod
    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        """video float (B, 3, T, H, W) in [0, 1] -> latents (B, t, h, w, D) before quantization.

        With `state`, the video is a chunk of a stream: the first (T = 1 + p k frames) if `state.latent_frames` is 0,
        else a continuation (T = p k). Causal layers get their history from `state.prepend`.
        """

    @abstractmethod
    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        """Quantized latents (B, t, h, w, D) -> video float (B, 3, T, H, W), not clamped; `state` as above."""

    def forward(self, video: Tensor) -> Reconstruction:
        quantized = self.quantizer(self.encode_latents(video.float()))
        return Reconstruction(self.decode_latents(quantized.latents), quantized)

    @torch.no_grad()
    @check_types
    def encode(self, video: VideoInput, check_values: bool = True) -> Tensor:
        """video float (B, 3, T, H, W) in [0, 1], or another that `as_video` takes -> ids int64 (B, t, h, w).

        check_values: whether values outside of [0, 1] are refused, for which the host waits for a GPU.
        """
        video = as_video(video).to(next(self.parameters()).device)
        self.spec.check_video(video, check_values)
        self.grid(*video.shape[2:])
        return self.encoder(check_values=False).push(video) if self.causal else self._encode_chunk(video)

    @torch.no_grad()
    @check_types
    def decode(self, ids: Tensor, check_values: bool = True) -> Tensor:
        """ids int64 (B, t, h, w) in 0..V-1 -> video float32 (B, 3, T, H, W) in [0, 1]; `check_values` as `encode`."""
        self.spec.check_ids(ids, check_values)
        return self.decoder(check_values=False).push(ids) if self.causal else self._decode_chunk(ids)

    def encoder(self, check_values: bool = True) -> StreamEncoder:
        """A stream that takes frames in chunks and returns ids. Raises PhenakiError unless the tokenizer is causal."""
        self._check_causal()
        return StreamEncoder(self._encode_chunk, self.spec, check_values)

    def decoder(self, check_values: bool = True) -> StreamDecoder:
        """A stream that takes ids in chunks and returns frames. Raises PhenakiError unless the tokenizer is causal."""
        self._check_causal()
        return StreamDecoder(self._decode_chunk, self.spec, check_values)

    @check_types
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive videos float (B, 3, n, H, W) of any lengths -> ids int64 (B, k, h, w), as soon as available.

        Memory does not grow with the length. All ids together equal those of `encode` on all frames, up to rounding.
        Raises PhenakiError unless the tokenizer is causal and all chunks have one size, and at the end unless the
        number of frames was 1 + p k.
        """
        encoder = self.encoder()
        for chunk in chunks:
            ids = encoder.push(chunk)
            if ids.shape[1]:
                yield ids
        encoder.finish()

    @check_types
    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive ids int64 (B, k, h, w) -> videos float32 (B, 3, n, H, W) in [0, 1]; see `encode_stream`.

        `decode_stream(encode_stream(frames))` reconstructs a video of any length.
        """
        decoder = self.decoder()
        for chunk in chunks:
            yield decoder.push(chunk)

    def check_video(self, video: Tensor) -> None:
        """Raise PhenakiError unless `video` is float (B, 3, n, H, W) in [0, 1] of a size that fits the patches."""
        self.spec.check_video(video)

    def _encode_chunk(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        video = video.to(next(self.parameters()).dtype)
        with autocast(video.device, self.precision):
            return self.quantizer(self.encode_latents(video, state)).ids

    def _decode_chunk(self, ids: Tensor, state: StreamState | None = None) -> Tensor:
        with autocast(ids.device, self.precision):
            return self.decode_latents(self.quantizer.indices_to_latents(ids), state).float().clamp(0, 1)

    def _check_causal(self) -> None:
        if not self.causal:
            raise PhenakiError(
                f"this tokenizer ({type(self).__name__}) is not causal: its first ids depend on the last frames, so it "
                "cannot stream; pass whole clips to encode and decode"
            )
