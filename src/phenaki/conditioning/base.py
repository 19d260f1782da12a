"""The contract of a text encoder: prompts to embeddings with a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phenaki.core.arguments import check_tensor
from phenaki.core.config import quoted
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import to_device
from phenaki.core.pretrained import PretrainedComponent

_MAX_PROMPT = 100_000  # characters


def check_text(prompt: str) -> None:
    """Raise PhenakiError for what no text encoder reads: text that is not Unicode, or of the length of a book."""
    if len(prompt) > _MAX_PROMPT:
        raise PhenakiError(f"the prompt has {len(prompt):,} characters; at most {_MAX_PROMPT:,} are taken")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of another encoding, as a terminal may pass them on
        raise PhenakiError(f"the prompt {prompt!a:.100} is not valid UTF-8 text") from error


class Text(NamedTuple):
    """Text embeddings that a generator is conditioned on.

    embeddings: float (B, L, D). mask: bool (B, L), False at padding. frames: int64 (B, L, 2), the latent frames
    [first, end) that attend to each embedding; None: all frames attend to all embeddings.
    """

    embeddings: Tensor
    mask: Tensor
    frames: Tensor | None = None

    def repeat(self, times: int) -> Text:
        """The batch repeated `times` times, (times * B, L, D)."""
        return Text(*(field if field is None else torch.cat([field] * times) for field in self))

    def row(self, index: int) -> Text:
        """The text of one sample, as a batch of 1."""
        return Text(*(field if field is None else field[index : index + 1] for field in self))

    def to(self, device: torch.device) -> Text:
        return Text(*(field if field is None else field.to(device) for field in self))

    def checked(self) -> Text:
        """The text as float32, with zeros where it is masked (0 times a hidden NaN would be NaN).

        Raises PhenakiError unless the embeddings are float (B, L, D), finite where the mask, bool (B, L), is True.
        """
        embeddings, mask = self.embeddings, self.mask
        for name, field in (("embeddings", embeddings), ("mask", mask)):
            if not isinstance(field, Tensor):
                raise PhenakiError(f"the {name} of a text {quoted(field)}: pass a tensor")
            check_tensor(f"the {name} of a text", field)
        if embeddings.ndim != 3 or not embeddings.is_floating_point() or not len(embeddings):
            raise PhenakiError(f"text embeddings are float (B, L, D), not {_describe(embeddings)}")
        if mask.dtype != torch.bool or mask.shape != embeddings.shape[:2]:
            expected = tuple(embeddings.shape[:2])
            raise PhenakiError(f"the mask of these text embeddings is bool {expected}, not {_describe(mask)}")
        if not bool(embeddings[mask].isfinite().all()):
            raise PhenakiError("the text embeddings are not finite: encode the text again, with a wider dtype")
        return self._replace(embeddings=embeddings.detach().float().masked_fill(~mask[..., None], 0))

    @classmethod
    def timed(cls, captions: Text, starts: Sequence[Sequence[int]]) -> Text:
        """Several captions a sample; each applies from its first latent frame until the next caption starts.

        captions: those of all B samples, one after the other, (N, L, D) without `frames`. starts: of each sample, the
        latent frames at which its captions start: from 0, increasing; N in all. Raises PhenakiError for other starts.
        """
        for row in starts:
            if not row or row[0] != 0 or sorted(set(row)) != list(row):
                raise PhenakiError(
                    f"captions that start at latent frames {list(row)}: 0 comes first, and each starts after the last"
                )
        counts = [len(row) for row in starts]
        if sum(counts) != len(captions.mask):
            raise PhenakiError(f"{len(captions.mask)} captions with {sum(counts)} starts: give one start per caption")
        spans = [span for row in starts for span in zip(row, [*row[1:], torch.iinfo(torch.long).max], strict=True)]
        frames = to_device(torch.tensor(spans), captions.mask.device)[:, None].expand(*captions.mask.shape, 2)
        fields = (captions.embeddings, captions.mask, frames)
        rows = ([part.flatten(0, 1) for part in field.split(counts)] for field in fields)
        return cls(*(pad_sequence(row, batch_first=True) for row in rows))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


class TextEncoder(PretrainedComponent, ABC):
    """Base class of text encoders.

    Subclasses set `config` (which has `width` and `check`) and `width` (D). `tokenize` is plain Python and may run in
    a data worker; `forward` is the network. `learned`: whether it is trained together with the generator.
    """

    learned: ClassVar[bool] = True
    config: Any
    width: int

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device

    def check(self, prompt: str) -> None:
        """Raise PhenakiError for a prompt that the encoder cannot read.

        Delegates to the config, so that data workers can check captions without the network.
        """
        self.config.check(prompt)

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> integer tensor (B, L, ...), padded with 0."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Text:
        """Tokens from `tokenize` -> embeddings (B, L, D) and mask (B, L)."""

    def encode(self, prompts: Sequence[str]) -> Text:
        """Check and encode prompts; the result is on the encoder's device."""
        for prompt in prompts:
            self.check(prompt)
        return self(self.tokenize(prompts).to(self.device))
