"""MaskGit of phenaki-pytorch as a generator.

Shapes: B batch, t, h, w token grid, N = t * h * w, L text positions, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phenaki.compat.transformer import NULL_KEYS, PositionBias, Transformer
from phenaki.conditioning.base import Text
from phenaki.core.config import configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.generators.base import Condition, Generator
from phenaki.tokenizers.spec import TokenizerSpec


@configclass
class PegMaskGitConfig:
    """Sizes of the network. `frames`: of the longest clip. `positions`: of its embedding (the original's max_seq_len).
    `hidden`: of the feed-forward networks."""

    tokenizer: TokenizerSpec
    text_width: int
    frames: int
    positions: int
    width: int
    layers: int
    heads: int
    head_dim: int
    hidden: int

    def __post_init__(self) -> None:
        (p, ph, pw), (height, width) = self.tokenizer.patch, self.tokenizer.image_size
        if height % ph or width % pw:
            raise PhenakiError(f"image_size {(height, width)} is not a multiple of the patch {(ph, pw)}")
        ids = latent_frames(self.frames, p) * (height // ph) * (width // pw)
        if ids > self.positions:
            raise PhenakiError(
                f"{self.frames} frames of {height}x{width} are {ids} ids, and this generator has positions for "
                f"{self.positions}"
            )


class PegMaskGit(Generator):
    """ids int64 (B, t, h, w), `mask_id` where unknown, and text -> logits (B, t, h, w, V)."""

    def __init__(self, config: PegMaskGitConfig):
        super().__init__()
        self.config = config
        vocab_size, width, heads = config.tokenizer.vocab_size, config.width, config.heads
        self.token_emb = nn.Embedding(vocab_size + 1, width)
        self.pos_emb = nn.Embedding(config.positions, width)
        self.continuous_pos_bias = PositionBias(3, config.head_dim, heads)
        self.transformer = Transformer(
            width,
            config.layers,
            heads,
            config.head_dim,
            config.hidden,
            peg_causal=False,
            context_width=config.text_width,
        )
        self.to_logits = nn.Linear(width, vocab_size)

    @property
    def head(self) -> nn.Linear:
        return self.to_logits

    def condition(self, text: Text, actions: Tensor | None = None, drop: Tensor | None = None) -> Condition:
        """As `Generator.condition`. Each layer has its own null keys, before those of the text and never masked."""
        if actions is not None:
            raise PhenakiError("this generator takes no actions: leave them out")
        mask, frames = text.mask, text.frames
        if drop is not None:
            mask = mask & ~drop[:, None]
        mask = torch.cat((mask.new_ones(len(mask), NULL_KEYS), mask), dim=1)
        if frames is not None:
            every = frames.new_tensor([0, torch.iinfo(frames.dtype).max]).expand(len(frames), NULL_KEYS, 2)
            frames = torch.cat((every, frames), dim=1)
        return Condition(
            [cross.keys_values(text.embeddings) for _, _, cross, _ in self.transformer.layers], mask, frames
        )

    def features(self, ids: Tensor, condition: Condition, where: Tensor | None = None) -> Tensor:
        """As `Generator.features`. Raises PhenakiError for more ids than it has positions."""
        B, *grid = ids.shape
        positions = ids[0].numel()
        if positions > self.config.positions:
            raise PhenakiError(
                f"a grid of {'x'.join(map(str, grid))} has {positions} ids, and this generator has positions for "
                f"{self.config.positions}: make a shorter or smaller video"
            )
        x = self.token_emb(ids.flatten(1)) + self.pos_emb.weight[:positions]
        bias, visible = self.continuous_pos_bias(grid), condition.visible(grid)
        x = self.transformer(x, (B, *grid), bias, condition.keys_values, visible)
        return x.view(B, *grid, -1) if where is None else x.flatten(0, 1).index_select(0, where)
