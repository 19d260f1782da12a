"""The paper's second stage: a bidirectional transformer that fills in masked ids from text (section 2.2).

Shapes: B batch, t, h, w token grid, N = t * h * w, L text positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import latent_frames
from phenaki.generators.base import Context, Generator
from phenaki.nn.attention import HEAD_DIM
from phenaki.nn.linear import RaggedLinear
from phenaki.nn.positions import fourier_features, rotary_table
from phenaki.nn.transformer import TransformerBlock, initialize, width_error
from phenaki.tokenizers.spec import TokenizerSpec

_BANDS = 6


@dataclass(frozen=True)
class MaskedTransformerConfig:
    """Sizes of the network; the paper's are 24 layers of width 2048. `frames`: the longest clip it is trained on."""

    tokenizer: TokenizerSpec
    text_width: int
    frames: int = 11
    width: int = 512
    layers: int = 8
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if error := width_error(self.width):
            raise PhenakiError(error)
        latent_frames(self.frames, self.tokenizer.patch[0])


@dataclass(frozen=True)
class MaskedTransformerSizes:
    """What of `MaskedTransformerConfig` is free to choose; the rest follows from the tokenizer and the text encoder."""

    frames: int = 11
    width: int = 512
    layers: int = 8
    mlp_ratio: int = 4

    def config(self, tokenizer: TokenizerSpec, text_width: int) -> MaskedTransformerConfig:
        return MaskedTransformerConfig(tokenizer, text_width, **asdict(self))


class MaskedTransformer(Generator):
    """ids int64 (B, t, h, w), `mask_id` where unknown, and text -> logits (B, t, h, w, V)."""

    def __init__(self, config: MaskedTransformerConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.ids = nn.Embedding(self.vocab_size + 1, width)
        self.first_frame = nn.Parameter(torch.zeros(width))
        self.positions = nn.Linear(2 * _BANDS * 3, width)
        self.null_text = nn.Parameter(torch.randn(config.text_width) * 0.02)
        self.layers = nn.ModuleList(
            TransformerBlock(width, config.mlp_ratio, context_width=config.text_width) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = RaggedLinear(width, self.outputs)
        initialize(self, depth=config.layers)
        nn.init.normal_(self.ids.weight, std=width**-0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    @property
    def outputs(self) -> int:
        """Of the head, for each id."""
        return self.vocab_size

    def drop(self, text: Text, dropped: Tensor) -> Text:
        """Put the learned null embedding in front of the text, and hide the rest of it where `dropped` (bool (B,)).

        It stands in front of every text, so that no sample is ever without a key to attend to.
        """
        null = self.null_text.to(text.embeddings.dtype).expand(text.embeddings.shape[0], 1, -1)
        mask = text.mask & ~dropped[:, None]
        return Text(torch.cat((null, text.embeddings), 1), torch.cat((mask.new_ones(len(mask), 1), mask), 1))

    def context(self, text: Text) -> Context:
        """Keys and values (B, H, L, K) of a text for each layer."""
        return [layer.cross.keys_values(text.embeddings) for layer in self.layers]

    def features(self, ids: Tensor, context: Context, text_mask: Tensor) -> Tensor:
        """ids (B, t, h, w) -> features (B, t, h, w, D), of which `head` makes logits."""
        B, t, h, w = ids.shape
        patch, (height, width) = self.config.tokenizer.patch, self.config.tokenizer.image_size
        scales = (latent_frames(self.config.frames, patch[0]), height // patch[1], width // patch[2])
        x = self.ids(ids).view(B, t * h * w, -1)
        x = x + self.positions(fourier_features((t, h, w), scales, _BANDS, ids.device))
        x = torch.cat((x[:, : h * w] + self.first_frame, x[:, h * w :]), dim=1)
        rotary = rotary_table((t, h, w), HEAD_DIM, ids.device)
        for layer, keys_values in zip(self.layers, context, strict=True):
            x = layer(x, rotary, context=keys_values, context_mask=text_mask)
        return self.norm(x).view(B, t, h, w, -1)
