"""Encoding and decoding in chunks, with a state of bounded size.

A stream cuts input of any length into chunks of complete latent frames, which a causal network processes in order.
Encoding or decoding a whole clip is a stream of one push. A network sees a fixed number of earlier latent frames
wherever it is in a video, so chunks leave no seam.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phenaki.core.arguments import check_types
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.nn.state import StreamState
from phenaki.tokenizers.spec import TokenizerSpec

CHUNK = 6  # latent frames that the network processes at once: the paper's clip, and a bound on memory

Encode = Callable[[Tensor, StreamState], Tensor]
"""One chunk, float (B, 3, n, H, W) of complete latent frames, and the state before it -> ids int64 (B, k, h, w)."""
Decode = Callable[[Tensor, StreamState], Tensor]
"""One chunk, ids int64 (B, k, h, w), and the state before it -> float32 (B, 3, n, H, W) in [0, 1]."""


class Stream:
    """What both directions have in common: the state, and the size that all input has."""

    def __init__(self, spec: TokenizerSpec, check_values: bool = True):
        self.spec, self._check_values = spec, check_values
        self.state = StreamState()
        self._size: tuple[int, int, int] | None = None

    def _check_size(self, kind: str, size: tuple[int, int, int]) -> None:
        if self._size is None:
            self._size = size
        if size != self._size:
            now, before = (f"{rows}x{columns} for {batch} samples" for batch, rows, columns in (size, self._size))
            raise PhenakiError(f"{kind} of {now} after {kind} of {before}: within a stream the size stays the same")


class StreamEncoder(Stream):
    """Frames in, ids out as soon as a latent frame is complete; the frames of an incomplete one wait for the rest."""

    def __init__(self, encode: Encode, spec: TokenizerSpec, check_values: bool = True):
        super().__init__(spec, check_values)
        self._encode_chunk = encode
        self._frames = 0  # pushed so far
        self._waiting: Tensor | None = None  # frames of an incomplete latent frame

    @torch.no_grad()
    @check_types
    def push(self, video: Tensor) -> Tensor:
        """video float (B, 3, n, H, W) in [0, 1], any n -> ids int64 (B, k, h, w) of the k >= 0 latent frames completed.

        Raises PhenakiError for an invalid video, and if B, H or W differs from the previous push.
        """
        self.spec.check_video(video, self._check_values)
        video = video.float()
        B, _, n, H, W = video.shape
        self._check_size("frames", (B, H, W))
        self._frames += n
        if self._waiting is not None:
            video = torch.cat((self._waiting, video), dim=2)
        ids = [video.new_empty(B, 0, *self.spec.grid(1, H, W)[1:], dtype=torch.long)]
        while frames := self._complete_frames(video.shape[2]):
            chunk, video = video.tensor_split([frames], dim=2)
            ids.append(self._encode_chunk(chunk, self.state))
            self.state.latent_frames += ids[-1].shape[1]
        self._waiting = video.clone()  # a view would hold all of it
        return torch.cat(ids, dim=1)

    def finish(self) -> None:
        """Raise PhenakiError, naming the nearest lengths, if the last latent frame is incomplete."""
        latent_frames(self._frames, self.spec.patch[0])

    def _complete_frames(self, frames: int) -> int:
        """How many of the first `frames` frames make up the next chunk."""
        p = self.spec.patch[0]
        missing = p - 1 if self.state.latent_frames == 0 else 0  # the first latent frame has 1 frame instead of p
        return max(0, min(CHUNK, (frames + missing) // p) * p - missing)


class StreamDecoder(Stream):
    """Ids in, frames out."""

    def __init__(self, decode: Decode, spec: TokenizerSpec, check_values: bool = True):
        super().__init__(spec, check_values)
        self._decode_chunk = decode

    @torch.no_grad()
    @check_types
    def push(self, ids: Tensor) -> Tensor:
        """ids int64 (B, k, h, w), any k -> the frames of these latent frames, float32 (B, 3, n, H, W) in [0, 1].

        Raises PhenakiError for invalid ids, and if B, h or w differs from the previous push.
        """
        self.spec.check_ids(ids, self._check_values)
        B, _, h, w = ids.shape
        self._check_size("ids", (B, h, w))
        _, ph, pw = self.spec.patch
        size = h * ph, w // self.spec.num_codebooks * pw
        frames = [torch.empty(B, 3, 0, *size, device=ids.device)]
        while ids.shape[1]:
            chunk, ids = ids.tensor_split([CHUNK], dim=1)
            frames.append(self._decode_chunk(chunk, self.state))
            self.state.latent_frames += chunk.shape[1]
        return torch.cat(frames, dim=2)
