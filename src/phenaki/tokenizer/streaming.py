"""Encoding and decoding piece by piece, with a state that does not grow.

The streams bring pieces of any length into the shape that the causal networks of a tokenizer take,
`latents(video, past)` and `reconstruct(latents, past)`: whole latent frames, a few at a time. One-shot encoding and
decoding are streams of a single piece. The networks see a fixed length of the past, wherever they are: so there is no
seam, and what they keep of it does not grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phenaki.errors import PhenakiError
from phenaki.grid import time_steps
from phenaki.nn.past import Past
from phenaki.precision import autocast

if TYPE_CHECKING:
    from phenaki.tokenizer.base import Tokenizer

CHUNK = 6  # latent frames that go through the networks at once: the paper's clip, and a bound on memory


class Stream:
    """What both directions share: the tokenizer, its `past` in this stream, and the size that all pieces have.

    Raises PhenakiError for a tokenizer that is not causal: its first ids depend on frames that are yet to come.
    """

    def __init__(self, tokenizer: Tokenizer):
        if not tokenizer.causal:
            raise PhenakiError(
                f"this tokenizer ({type(tokenizer).__name__}) is not causal: its first ids depend on the last frames, "
                "so it cannot stream; give encode and decode whole clips"
            )
        self.tokenizer = tokenizer
        self.past = Past()
        self._size: tuple[int, int, int] | None = None

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
        time_steps(self._frames, self.tokenizer.patch[0])

    def _whole_steps(self, frames: int) -> int:
        """How many of so many frames can go through the network next."""
        p = self.tokenizer.patch[0]
        lacking = p - 1 if self.past.steps == 0 else 0  # the first time step has 1 frame instead of p
        return max(0, min(CHUNK, (frames + lacking) // p) * p - lacking)

    def _encode(self, video: Tensor) -> Tensor:
        """The ids of whole latent frames."""
        with autocast(video.device):
            ids = self.tokenizer.quantizer(self.tokenizer.latents(video, self.past)).ids
        self.past.steps += ids.shape[1]
        return ids


class Decoder(Stream):
    """Ids in, frames out."""

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
        for chunk in ids.split(CHUNK, dim=1) if ids.shape[1] else ():
            frames.append(self._decode(chunk))
        return torch.cat(frames, dim=2)

    def _decode(self, ids: Tensor) -> Tensor:
        """The frames of latent frames."""
        tokenizer = self.tokenizer
        with autocast(ids.device):
            video = tokenizer.reconstruct(tokenizer.quantizer.embed(ids), self.past).float().clamp(0, 1)
        self.past.steps += ids.shape[1]
        return video
