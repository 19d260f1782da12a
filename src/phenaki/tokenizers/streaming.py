"""Encoding and decoding piece by piece, with a state that does not grow.

The streams bring pieces of any length into the shape that the causal networks of a tokenizer take,
`encode_latents(video, state)` and `decode_latents(latents, state)`: whole latent frames, as many as they can see.
One-shot encoding and decoding are streams of a single piece.

A network with a window starts anew at its end. The encoder gives it the last frame again, as a first frame, and drops
the ids of that; the decoder encodes the last frame that it decoded, and drops the frame that comes of it. No other way
beyond the window with as many ids gave better pictures (docs/log.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.core.precision import autocast
from phenaki.nn.state import StreamState

if TYPE_CHECKING:
    from phenaki.tokenizers.base import Tokenizer

STEPS = 6  # at once, where the tokenizer sets no window: the paper's clip, and a bound on memory


class Stream:
    """What both directions share: the tokenizer, its `state` in this stream, and the size that all pieces have.

    Raises PhenakiError for a tokenizer that is not causal: its first ids depend on frames that are yet to come.
    """

    def __init__(self, tokenizer: Tokenizer):
        if not tokenizer.causal:
            raise PhenakiError(
                f"this tokenizer ({type(tokenizer).__name__}) is not causal: its first ids depend on the last frames, "
                "so it cannot stream; give encode and decode whole clips"
            )
        self.tokenizer = tokenizer
        self.state = StreamState()
        self._size: tuple[int, int, int] | None = None

    @property
    def _room(self) -> int:
        """Time steps that can go through the networks next: up to the end of this window, or of the one to be begun."""
        window = self.tokenizer.window
        if window is None:
            return STEPS
        return window - self.state.latent_frames or window - 1

    def _start_anew(self) -> bool:
        """Whether the window is at its end; then all is forgotten."""
        ended = self.state.latent_frames == self.tokenizer.window
        if ended:
            self.state = StreamState()
        return ended

    def _check_size(self, piece: str, size: tuple[int, int, int]) -> None:
        if self._size is None:
            self._size = size
        if size != self._size:
            now, before = (f"{rows}x{columns} for {batch} samples" for batch, rows, columns in (size, self._size))
            raise PhenakiError(f"{piece} of {now} after {piece} of {before}: within a stream the size stays the same")


class Encoder(Stream):
    """Frames in, ids out as soon as a time step is complete; fewer frames than that wait for the rest."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(tokenizer)
        self._frames = 0  # pushed in all
        self._waiting: Tensor | None = None  # fewer than a time step has
        self._last: Tensor | None = None  # the last frame that went through the network

    @torch.no_grad()
    def push(self, video: Tensor) -> Tensor:
        """video float (B, 3, n, H, W) in [0, 1], any n -> ids int64 (B, k, h, w) of the k >= 0 time steps it completes.

        Raises PhenakiError as `Tokenizer.encode` does, and for another B, H or W than before.
        """
        self.tokenizer.check_video(video)
        B, _, n, H, W = video.shape
        self._check_size("frames", (B, H, W))
        self._frames += n
        if self._waiting is not None:
            video = torch.cat((self._waiting, video), dim=2)
        ids = [video.new_empty(B, 0, *self.tokenizer.grid(1, H, W)[1:], dtype=torch.long)]
        while frames := self._whole_steps(video.shape[2]):
            piece, video = video.tensor_split([frames], dim=2)
            ids.append(self._encode(piece))
        self._waiting = video.clone()  # a view would hold on to all of it
        return torch.cat(ids, dim=1)

    def finish(self) -> None:
        """Raise PhenakiError, naming the nearest lengths, if the stream ends within a time step."""
        latent_frames(self._frames, self.tokenizer.patch[0])

    def _whole_steps(self, frames: int) -> int:
        """How many of so many frames can go through the network next."""
        p = self.tokenizer.patch[0]
        lacking = p - 1 if self.state.latent_frames == 0 else 0  # the first time step has 1 frame instead of p
        return max(0, min(self._room, (frames + lacking) // p) * p - lacking)

    def _encode(self, video: Tensor) -> Tensor:
        """The ids of whole time steps within one window."""
        tokenizer = self.tokenizer
        if anew := self._start_anew():
            video = torch.cat((self._last, video), dim=2)
        self._last = video[:, :, -1:].clone()
        with autocast(video.device):
            ids = tokenizer.quantizer(tokenizer.encode_latents(video, self.state)).ids
        self.state.latent_frames += ids.shape[1]
        return ids[:, anew:]


class Decoder(Stream):
    """Ids in, frames out."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(tokenizer)
        self._last: Tensor | None = None  # the last frame that was decoded

    @torch.no_grad()
    def push(self, ids: Tensor) -> Tensor:
        """ids int64 (B, k, h, w), any k -> video float32 (B, 3, n, H, W) in [0, 1], the n frames of the k time steps.

        Raises PhenakiError as `Tokenizer.decode` does, and for another B, h or w than before.
        """
        self.tokenizer.check_ids(ids)
        B, _, h, w = ids.shape
        self._check_size("ids", (B, h, w))
        _, ph, pw = self.tokenizer.patch
        frames = [torch.empty(B, 3, 0, h * ph, w * pw, device=ids.device)]
        while ids.shape[1]:
            piece, ids = ids.tensor_split([self._room], dim=1)
            frames.append(self._decode(piece))
        return torch.cat(frames, dim=2)

    def _decode(self, ids: Tensor) -> Tensor:
        """The frames of time steps within one window."""
        tokenizer = self.tokenizer
        if anew := self._start_anew():
            ids = torch.cat((tokenizer.encode(self._last), ids), dim=1)
        with autocast(ids.device):
            video = (
                tokenizer.decode_latents(tokenizer.quantizer.indices_to_latents(ids), self.state).float().clamp(0, 1)
            )
        self.state.latent_frames += ids.shape[1]
        self._last = video[:, :, -1:].clone()
        return video[:, :, anew:]
