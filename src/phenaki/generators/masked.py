"""The paper's second stage: a bidirectional transformer that fills in masked ids from text (section 2.2).

Shapes: B batch, t, h, w token grid, N = t * h * w, L text positions, D width, V vocabulary, C codebooks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.core.actions import ActionSpec
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.core.precision import with_cast_weights
from phenaki.generators.base import Condition, Generator, every_frame
from phenaki.nn.attention import HEAD_DIM
from phenaki.nn.linear import RaggedLinear
from phenaki.nn.norm import LayerNorm, residual
from phenaki.nn.positions import fourier_features, rotary_table
from phenaki.nn.transformer import TransformerBlock, initialize, width_error
from phenaki.tokenizers.spec import TokenizerSpec

FOURIER_BANDS = 6


@dataclass(frozen=True)
class MaskedTransformerSizes:
    """What a recipe chooses; the rest of the configuration follows from tokenizer and text encoder. The paper's are 24
    layers of width 2048. `frames`: of the longest training clip."""

    frames: int = 11
    width: int = 512
    layers: int = 8
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if error := width_error(self.width):
            raise PhenakiError(error)

    def config(
        self, tokenizer: TokenizerSpec, text_width: int, actions: ActionSpec | None = None
    ) -> MaskedTransformerConfig:
        return MaskedTransformerConfig(tokenizer=tokenizer, text_width=text_width, actions=actions, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class MaskedTransformerConfig(MaskedTransformerSizes):
    """Sizes of the network, the tokenizer whose ids it writes, the width of the text embeddings, and the actions that
    it takes."""

    tokenizer: TokenizerSpec
    text_width: int
    actions: ActionSpec | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        latent_frames(self.frames, self.tokenizer.patch[0])


class MaskedTransformer(Generator):
    """ids int64 (B, t, h, w), `mask_id` where unknown, and text -> logits (B, t, h, w, V)."""

    def __init__(self, config: MaskedTransformerConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.ids = nn.Embedding(self.num_codebooks * (self.vocab_size + 1), width)
        self.first_frame = nn.Parameter(torch.zeros(width))
        self.positions = nn.Linear(2 * FOURIER_BANDS * self.axes, width)
        self.null_text = nn.Parameter(torch.empty(config.text_width).normal_(std=0.02))
        if config.actions is not None:
            self.actions = nn.Linear(config.tokenizer.patch[0] * len(config.actions), width)
            self.unknown_actions = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(
            self.make_block(width, config.mlp_ratio, config.text_width) for _ in range(config.layers)
        )
        self.norm = LayerNorm(width)
        self.head = RaggedLinear(width, self.num_codebooks * self.outputs)
        initialize(self, depth=config.layers)
        nn.init.normal_(self.ids.weight, std=(self.num_codebooks * width) ** -0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    def make_block(self, width: int, mlp_ratio: int, text_width: int) -> TransformerBlock:
        return TransformerBlock(width, mlp_ratio, context_width=text_width)

    @property
    def axes(self) -> int:
        """Of the absolute positions: time, rows, columns."""
        return 3

    @property
    def outputs(self) -> int:
        """Width of the head's output, for each id."""
        return self.vocab_size

    def condition(
        self,
        text: Text,
        actions: Tensor | None = None,
        drop: Tensor | None = None,
        drop_actions: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Condition:
        """Keys and values of the text for each layer, computed once for all steps of decoding.

        The learned null embedding stands in front of every text and is never masked, so that a sample without text
        still has a key to attend to.
        """
        embeddings, mask, frames = text.embeddings, text.mask, text.frames
        if drop is not None:
            mask = mask & ~drop[:, None]
        null = self.null_text.to(embeddings.dtype).expand(len(embeddings), 1, -1)
        embeddings = torch.cat((null, embeddings), dim=1)
        mask = torch.cat((mask.new_ones(len(mask), 1), mask), dim=1)
        if frames is not None:
            every = every_frame(frames.device).expand(len(frames), 1, 2)
            frames = torch.cat((every, frames), dim=1)
        keys_values = [layer.cross.keys_values(embeddings) for layer in self.layers]
        return Condition(keys_values, mask, frames, self._embed_actions(actions, drop_actions, len(mask)), starts)

    def with_cast_weights(self) -> Generator:
        return with_cast_weights(self, self.head.weight.device, self.precision)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """ids (B, t, h, w) -> (B, t, h, w / C, D): the sum of the embeddings of a position's ids, a table for each
        codebook."""
        if self.num_codebooks == 1:
            return self.ids(ids)
        first = torch.arange(self.num_codebooks, device=ids.device) * (self.vocab_size + 1)
        return self.ids(ids.unflatten(-1, (-1, self.num_codebooks)) + first).sum(-2)

    def tie_levels(self, levels: Tensor) -> dict[Tensor, Tensor]:
        rows = {self.head.weight: levels, self.ids.weight: F.pad(levels, (0, 0, 0, 1))}  # the mask id has none
        return {weight: torch.block_diag(*each) for weight, each in rows.items()}

    def _embed_actions(self, actions: Tensor | None, drop: Tensor | None, batch: int) -> Tensor | None:
        """Embeddings (B, t, D) of the actions, or (B, 1, D) of unknown ones."""
        if self.config.actions is None:
            if actions is not None:
                raise PhenakiError("this generator takes no actions: train one that does, or omit them")
            return None
        unknown = self.unknown_actions.expand(batch, 1, -1)
        if actions is None:
            return unknown
        if actions.shape[-1] != self.actions.in_features:
            names = ", ".join(self.config.actions.names)
            raise PhenakiError(
                f"actions of {actions.shape[-1]} numbers a latent frame: this generator takes "
                f"{self.actions.in_features}, of {names}"
            )
        embedded = self.actions(actions)
        return embedded if drop is None else torch.where(drop[:, None, None], unknown, embedded)

    def _mark(self, x: Tensor, condition: Condition) -> Tensor:
        """x (B, t, S, D) with the first latent frame of a video marked, and the actions added."""
        starts = condition.starts
        mark = self.first_frame if starts is None else self.first_frame * starts[:, None, None, None]
        return self._act(torch.cat((x[:, :1] + mark, x[:, 1:]), dim=1), condition)

    def _act(self, x: Tensor, condition: Condition) -> Tensor:
        """x (B, t, S, D) with the actions added."""
        return x if condition.actions is None else x + condition.actions[:, :, None]

    def features(
        self,
        ids: Tensor,
        condition: Condition,
        where: Tensor | None = None,
        clean: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        x = self.embed_ids(ids)
        B, t, h, w, _ = x.shape
        patch, (height, width) = self.config.tokenizer.patch, self.config.tokenizer.image_size
        scales = (latent_frames(self.config.frames, patch[0]), height // patch[1], width // patch[2])
        x = x.flatten(1, 3)
        features = fourier_features((t, h, w), scales, FOURIER_BANDS, ids.device)
        x = x + self.positions(features.to(self.positions.weight.dtype))
        x = residual(self._mark(x.unflatten(1, (t, h * w)), condition).flatten(1, 2))
        rotary = rotary_table((t, h, w), HEAD_DIM, ids.device)
        visible = condition.visible((t, h, w))
        for layer, keys_values in zip(self.layers, condition.keys_values, strict=True):
            x = layer(x, rotary, context=keys_values, context_mask=visible)
        x = self.norm(x)
        return x.view(B, t, h, w, -1) if where is None else x.flatten(0, 1).index_select(0, where)
