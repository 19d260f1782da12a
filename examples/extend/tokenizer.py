"""A tokenizer in one file: two frames of 8 x 8 pixels are a vector, by one linear layer each way.

python examples/extend/tokenizer.py runs/patch
"""

import sys
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from phenaki.core.registry import TOKENIZERS
from phenaki.nn.state import StreamState, is_first_chunk
from phenaki.tokenizers import QuantizerConfig, Tokenizer
from phenaki.tokenizers.quantizers import build_quantizer
from phenaki.training.recipes import cvivit_debug
from phenaki.training.tokenizer import TokenizerRecipe, train_tokenizer


@dataclass(frozen=True)
class PatchConfig:
    image_size: tuple[int, int] = (32, 32)
    fps: float = 8.0
    width: int = 64
    patch: ClassVar = (2, 8, 8)  # frames, rows, columns
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="fsq", levels=(8, 8, 8)))


class PatchTokenizer(Tokenizer):
    patch = PatchConfig.patch

    def __init__(self, config: PatchConfig):
        super().__init__()
        self.config = config
        self.encoding = nn.Linear(2 * 8 * 8 * 3, config.width)
        self.quantizer = build_quantizer(config.quantizer, config.width)
        self.decoding = nn.Linear(config.width, 2 * 8 * 8 * 3)

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        if is_first_chunk(state):  # the first frame is a latent frame of its own: double it
            video = torch.cat((video[:, :, :1], video), dim=2)
        blocks = video.unflatten(2, (-1, 2)).unflatten(4, (-1, 8)).unflatten(6, (-1, 8))  # B 3 t 2 h 8 w 8
        return self.encoding(blocks.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4))

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        blocks = self.decoding(latents).unflatten(-1, (2, 8, 8, 3)).permute(0, 7, 1, 4, 2, 5, 3, 6)
        video = blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return video[:, :, 1:] if is_first_chunk(state) else video


TOKENIZERS.register("patch", PatchConfig, PatchTokenizer)


def patch_debug() -> TokenizerRecipe:
    return replace(cvivit_debug(), tokenizer=PatchConfig())


if __name__ == "__main__":
    train_tokenizer(patch_debug(), sys.argv[1])
