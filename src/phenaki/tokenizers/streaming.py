"""Encoding and decoding in chunks, with a state of bounded size.

A stream cuts input of any length into chunks of complete latent frames, which a causal network processes in order.
Encoding or decoding a whole clip is a stream of one push.

A network with a window starts over at its end. The encoder repeats the last frame as the first of the new window and
drops its ids; the decoder encodes the last frame it decoded and drops that frame. No other continuation with as many
ids gave better pictures (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.nn.state import StreamState
from phenaki.tokenizers.spec import TokenizerSpec

CHUNK = 6  # latent frames per chunk of a network without a window: the paper's clip, and a bound on memory

Encode = Callable[[Tensor, StreamState], Tensor]
"""One chunk, float (B, 3, n, H, W) of complete latent frames, and the state before it -> ids int64 (B, k, h, w)."""
Decode = Callable[[Tensor, StreamState], Tensor]
"""One chunk, ids int64 (B, k, h, w), and the state before it -> float32 (B, 3, n, H, W) in [0, 1]."""


class Stream:
    """What both directions have in common: the state, the window, and the size that all input has.

    window: the most latent frames that the network sees at once; None for a network that needs no such limit.
    """

    def __init__(self, spec: TokenizerSpec, window: int | None):
        self.spec = spec
        self.window = window
        self.state = StreamState()
        self._size: tuple[int, int, int] | None = None

    @property
    def _chunk(self) -> int:
        """Latent frames that the next chunk may have: up to the end of this window, or of a new one."""
        if self.window is None:
            return CHUNK
        return self.window - self.state.latent_frames or self.window - 1

    def _reset_at_end(self) -> bool:
        """Start a new window if this one is complete; whether it was."""
        complete = self.state.latent_frames == self.window
        if complete:
            self.state = StreamState()
        return complete

    def _check_size(self, kind: str, size: tuple[int, int, int]) -> None:
        if self._size is None:
            self._size = size
        if size != self._size:
            now, before = (f"{rows}x{columns} for {batch} samples" for batch, rows, columns in (size, self._size))
            raise PhenakiError(f"{kind} of {now} after {kind} of {before}: within a stream the size stays the same")


class StreamEncoder(Stream):
    """Frames in, ids out as soon as a latent frame is complete; the frames of an incomplete one wait for the rest."""

    def __init__(self, encode: Encode, spec: TokenizerSpec, window: int | None):
        super().__init__(spec, window)
        self._encode_chunk = encode
        self._frames = 0  # pushed so far
        self._waiting: Tensor | None = None  # frames of an incomplete latent frame
        self._last: Tensor | None = None  # the last encoded frame

    @torch.no_grad()
    def push(self, video: Tensor) -> Tensor:
        """video float (B, 3, n, H, W) in [0, 1], any n -> ids int64 (B, k, h, w) of the k >= 0 latent frames completed.

        Raises PhenakiError for an invalid video, and if B, H or W differs from the previous push.
        """
        self.spec.check_video(video)
        B, _, n, H, W = video.shape
        self._check_size("frames", (B, H, W))
        self._frames += n
        if self._waiting is not None:
            video = torch.cat((self._waiting, video), dim=2)
        ids = [video.new_empty(B, 0, *self.spec.grid(1, H, W)[1:], dtype=torch.long)]
        while frames := self._complete_frames(video.shape[2]):
            chunk, video = video.tensor_split([frames], dim=2)
            ids.append(self._encode(chunk))
        self._waiting = video.clone()  # a view would hold all of it
        return torch.cat(ids, dim=1)

    def finish(self) -> None:
        """Raise PhenakiError, naming the nearest lengths, if the last latent frame is incomplete."""
        latent_frames(self._frames, self.spec.patch[0])

    def _complete_frames(self, frames: int) -> int:
        """How many of the first `frames` frames make up the next chunk."""
        p = self.spec.patch[0]
        missing = p - 1 if self.state.latent_frames == 0 else 0  # the first latent frame has 1 frame instead of p
        return max(0, min(self._chunk, (frames + missing) // p) * p - missing)

    def _encode(self, video: Tensor) -> Tensor:
        """The ids of one chunk."""
        if reset := self._reset_at_end():
            video = torch.cat((self._last, video), dim=2)
        self._last = video[:, :, -1:].clone()
        ids = self._encode_chunk(video, self.state)
        self.state.latent_frames += ids.shape[1]
        return ids[:, reset:]


class StreamDecoder(Stream):
    """Ids in, frames out. `encode` encodes the first frame of each window but the first."""

    def __init__(self, decode: Decode, encode: Encode, spec: TokenizerSpec, window: int | None):
        super().__init__(spec, window)
        self._decode_chunk = decode
        self._encode_chunk = encode
        self._last: Tensor | None = None  # the last decoded frame

    @torch.no_grad()
    def push(self, ids: Tensor) -> Tensor:
        """ids int64 (B, k, h, w), any k -> the frames of these latent frames, float32 (B, 3, n, H, W) in [0, 1].

        Raises PhenakiError for invalid ids, and if B, h or w differs from the previous push.
        """
        self.spec.check_ids(ids)
        B, _, h, w = ids.shape
        self._check_size("ids", (B, h, w))
        _, ph, pw = self.spec.patch
        frames = [torch.empty(B, 3, 0, h * ph, w * pw, device=ids.device)]
        while ids.shape[1]:
            chunk, ids = ids.tensor_split([self._chunk], dim=1)
            frames.append(self._decode(chunk))
        return torch.cat(frames, dim=2)

    def _decode(self, ids: Tensor) -> Tensor:
        """The frames of one chunk."""
        if reset := self._reset_at_end():
            ids = torch.cat((self._encode_chunk(self._last, StreamState()), ids), dim=1)
        video = self._decode_chunk(ids, self.state)
        self.state.latent_frames += ids.shape[1]
        self._last = video[:, :, -1:].clone()
        return video[:, :, reset:]
