"""The contract of a generator (second stage): masked ids and a condition to logits.

Training, sampling and the cost model call `condition`, `logits`, `make_cache` and `commit` alone; a critic that shares
the network also calls `features`.

Shapes: B batch, t, h, w token grid, M positions asked for, D width, V vocabulary, H heads, K head width, L text length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Precision, to_device
from phenaki.core.pretrained import PretrainedComponent
from phenaki.tokenizers.base import Tokenizer

FORWARD_METHODS = ("condition", "logits", "features", "commit")
"""Entry points that use weights: what shards them registers each, so that it gathers them as it does for `forward`."""


def every_frame(device: torch.device) -> Tensor:
    """int64 (2,), the latent frames [first, end) of what all latent frames see."""
    return to_device(torch.tensor([0, torch.iinfo(torch.int64).max]), device)


Over = Literal["text", "actions", "both"]
"""What classifier-free guidance is over: its null branch does not see that."""


@dataclass(frozen=True)
class Condition:
    """What a generator computed from text and actions, once for all steps of decoding.

    Opaque to everyone else but for `concatenate`, so a generator may return a class of its own that has it; this one is
    for transformers with cross-attention.

    keys_values: keys and values (B, H, L, K) for each layer. mask: bool (B, L), True where there is text. frames: int64
    (B, L, 2), the latent frames [first, end) that see each position; None: all do. actions: embedded, (B, t, D), or
    (B, 1, D) for all latent frames alike. starts: bool (B,), False where the ids begin in the middle of a video; None:
    all begin one.
    """

    keys_values: Sequence[tuple[Tensor, Tensor]]
    mask: Tensor
    frames: Tensor | None = None
    actions: Tensor | None = None
    starts: Tensor | None = None

    def repeat(self, times: int) -> Condition:
        """The batch repeated as a whole."""
        return self.concatenate([self] * times)

    @staticmethod
    def concatenate(conditions: Sequence[Condition]) -> Condition:
        """One batch after the other, each padded to the longest text."""
        if len(conditions) == 1:
            return conditions[0]
        length = max(condition.mask.shape[1] for condition in conditions)
        padded = [condition._pad(length) for condition in conditions]
        layers = zip(*(condition.keys_values for condition in padded), strict=True)
        keys_values = [tuple(map(torch.cat, zip(*layer, strict=True))) for layer in layers]
        mask = torch.cat([condition.mask for condition in padded])
        timed = any(condition.frames is not None for condition in padded)
        frames = torch.cat([condition._frames() for condition in padded]) if timed else None
        actions, starts = (
            None if getattr(padded[0], name) is None else torch.cat([getattr(each, name) for each in padded])
            for name in ("actions", "starts")
        )
        return Condition(keys_values, mask, frames, actions, starts)

    def _pad(self, length: int) -> Condition:
        more = length - self.mask.shape[1]
        if not more:
            return self
        keys_values = [(F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more))) for k, v in self.keys_values]
        frames = None if self.frames is None else F.pad(self.frames, (0, 0, 0, more))
        return replace(self, keys_values=keys_values, mask=F.pad(self.mask, (0, more)), frames=frames)

    def _frames(self) -> Tensor:
        if self.frames is not None:
            return self.frames
        return every_frame(self.mask.device).expand(*self.mask.shape, 2)

    def visible(self, grid: Sequence[int], start: int | Tensor = 0) -> Tensor:
        """bool (B, 1 or t * h * w, L): which text positions each position of a grid (t, h, w) attends to, the first
        latent frame of which is number `start` of the video; int64 (B,): of each video."""
        if self.frames is None:
            return self.mask[:, None]
        t, h, w = grid
        start = start.view(-1, 1, 1) if isinstance(start, Tensor) else start
        frame = torch.arange(t, device=self.mask.device)[:, None] + start
        first, end = self.frames[:, None].unbind(-1)
        return (self.mask[:, None] & (first <= frame) & (frame < end)).repeat_interleave(h * w, dim=1)


class Generator(PretrainedComponent, ABC):
    """ids int64 (B, t, h, w), `mask_id` where unknown, and a condition -> logits (B, t, h, w, V). With C codebooks,
    C neighbouring ids of a row are of one position; features and head are those of positions.

    Subclasses set `config`, with `tokenizer` (the TokenizerSpec of the ids), `text_width` and `frames` (of the longest
    clip), and `head`, and define `condition` and `features`. Critics also read `config.width`, that of the features,
    and `config.layers`, the default depth of a token critic. Generators with a cache set `has_cache`, and define
    `make_cache` and `commit`.

    precision: of sampling, not of training.
    """

    has_cache: ClassVar[bool] = False
    precision: Precision = "auto"
    config: Any
    head: nn.Module

    @property
    def vocab_size(self) -> int:
        return self.config.tokenizer.vocab_size

    @property
    def num_codebooks(self) -> int:
        return self.config.tokenizer.num_codebooks

    @property
    def mask_id(self) -> int:
        return self.vocab_size

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise PhenakiError, naming each difference, unless this generator was built for such a tokenizer."""
        expected, actual = asdict(self.config.tokenizer), asdict(tokenizer.spec)
        differences = [
            f"{name} {expected[name]}, not {actual[name]}" for name in expected if expected[name] != actual[name]
        ]
        if differences:
            raise PhenakiError(
                f"this generator was built for a tokenizer with {'; '.join(differences)}: "
                "use the tokenizer it was trained with"
            )

    @abstractmethod
    def condition(
        self,
        text: Text,
        actions: Tensor | None = None,
        drop: Tensor | None = None,
        drop_actions: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Condition:
        """The condition for `logits`.

        Args:
            text: embeddings (B, L, D) and their mask.
            actions: float (B, t, A), the actions of each latent frame (`core.actions.to_latent`); None: unknown.
            drop: bool (B,), True where the text is replaced by the null embedding (classifier-free guidance).
            drop_actions: bool (B,), True where the actions are unknown.
            starts: bool (B,), False where the ids begin in the middle of a video; None: all begin one.

        Raises PhenakiError for actions that this generator does not take.
        """

    @abstractmethod
    def features(self, ids: Tensor, condition: Condition, where: Tensor | None = None, **history: Any) -> Tensor:
        """What `head` turns into logits: (B, t, h, w / C, D), or (M, D) at the M positions `where`. Arguments are those
        of `logits`; a generator that keeps a cache takes `clean` and `cache` too."""

    def tie_levels(self, levels: Tensor) -> dict[Tensor, Tensor]:
        """The weights with a row for each code, and which levels each row (R, C * L) has, for training; {}: none.

        levels: float (C, V, L), 1 where a code has a level, as `FSQ.levels_of_codes` returns it."""
        return {}

    def logits(
        self,
        ids: Tensor,
        condition: Condition,
        where: Tensor | None = None,
        clean: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Logits of every id, (B, t, h, w, V), or of the M ids `where`, (M, V).

        Args:
            ids: int64 (B, t, h, w), `mask_id` where unknown.
            where: int64 (M,), indices into the flattened (B, t, h, w).
            clean: int64 (B, t, h, w), the unmasked clip, for a causal generator trained on both copies in one pass.
            cache: keys and values of earlier latent frames, which `commit` wrote; it is not changed.
        """
        history = {name: value for name, value in (("clean", clean), ("cache", cache)) if value is not None}
        if history and not self.has_cache:
            raise PhenakiError(f"{type(self).__name__} sees a whole clip at once and takes no `clean` and no `cache`")
        if self.num_codebooks == 1:
            return self.head(self.features(ids, condition, where, **history))
        # Of all positions: which codebooks `where` asks for differs between them, and to select would cost more.
        logits = self.head(self.features(ids, condition, **history))
        logits = logits.unflatten(-1, (self.num_codebooks, -1)).flatten(-3, -2)
        return logits if where is None else logits.flatten(0, -2).index_select(0, where)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `logits`."""
        return self.logits(*args, **kwargs)

    def make_cache(self) -> Any:
        """An empty cache, for any batch. Raises PhenakiError for a generator that keeps none."""
        raise self._no_cache()

    def commit(self, ids: Tensor, condition: Condition, cache: Any, defer: bool = False) -> None:
        """Write the keys and values of finished latent frames, ids int64 (B, n, h, w), into the cache.

        defer: those of the last one are written by the next pass, which costs less than a pass of their own.
        """
        raise self._no_cache()

    def with_cast_weights(self) -> Generator:
        """This generator, or a copy for sampling whose weights need no cast in every pass; ids are the same."""
        return self

    def _no_cache(self) -> PhenakiError:
        return PhenakiError(f"{type(self).__name__} keeps no cache: it sees a whole clip at once")
