"""MaskGit of phenaki-pytorch as a generator.

Shapes: B batch, t, h, w token grid, N = t * h * w, L text positions, D width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from phenaki.compat.transformer import PositionBias, Transformer
from phenaki.conditioning.base import Text
from phenaki.core.config import configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.generators.base import Context, Generator
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

    def drop(self, text: Text, dropped: Tensor) -> Text:
        """Hide the text where `dropped` (bool (B,)); the null keys of each layer stay."""
        return Text(text.embeddings, text.mask & ~dropped[:, None])

    def context(self, text: Text) -> Context:
        """Keys and values (B, H, M, K) of a text for each layer, those of the null keys in front."""
        return [cross.keys_values(text.embeddings) for _, _, cross, _ in self.transformer.layers]

    def features(self, ids: Tensor, context: Context, text_mask: Tensor) -> Tensor:
        """ids (B, t, h, w) -> features (B, t, h, w, D), of which `head` makes logits. Raises PhenakiError for more ids
        than it has positions."""
        B, *grid = ids.shape
        positions = ids[0].numel()
        if positions > self.config.positions:
            raise PhenakiError(
                f"a grid of {'x'.join(map(str, grid))} has {positions} ids, and this generator has positions for "
                f"{self.config.positions}: make a shorter or smaller video"
            )
        x = self.token_emb(ids.flatten(1)) + self.pos_emb.weight[:positions]
        x = self.transformer(x, (B, *grid), self.continuous_pos_bias(grid), context, text_mask)
        return x.view(B, *grid, -1)
