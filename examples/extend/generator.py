"""A generator in one file: each id is guessed from those beside it and the mean of the text.

python examples/extend/generator.py runs/tokenizer/tokenizer runs/nearby
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

import phenaki
from phenaki.conditioning import Text
from phenaki.core.registry import GENERATORS
from phenaki.generators import Generator
from phenaki.tokenizers import TokenizerSpec
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.recipes import masked_debug


@dataclass(frozen=True)
class NearbySizes:
    frames: int = 5
    width: int = 64

    def config(self, tokenizer: TokenizerSpec, text_width: int) -> "NearbyConfig":
        return NearbyConfig(**asdict(self), tokenizer=tokenizer, text_width=text_width)


@dataclass(frozen=True, kw_only=True)
class NearbyConfig(NearbySizes):
    tokenizer: TokenizerSpec
    text_width: int


@dataclass(frozen=True)
class MeanOfText:
    embedding: Tensor  # (B, 1, 1, 1, D)

    @staticmethod
    def concatenate(conditions: Sequence["MeanOfText"]) -> "MeanOfText":
        return MeanOfText(torch.cat([condition.embedding for condition in conditions]))


class Nearby(Generator):
    def __init__(self, config: NearbyConfig):
        super().__init__()
        self.config = config
        self.ids = nn.Embedding(self.vocab_size + 1, config.width)
        self.null_text = nn.Parameter(torch.zeros(config.text_width))
        self.text = nn.Linear(config.text_width, config.width)
        self.nearby = nn.Conv3d(config.width, config.width, 3, padding=1)
        self.head = nn.Linear(config.width, self.vocab_size)

    def condition(self, text: Text, actions: Tensor | None = None, drop: Tensor | None = None) -> MeanOfText:
        mask = text.mask if drop is None else text.mask & ~drop[:, None]
        words = mask.sum(1, keepdim=True)
        mean = (text.embeddings * mask[..., None]).sum(1) / words.clamp(min=1)
        return MeanOfText(self.text(torch.where(words > 0, mean, self.null_text))[:, None, None, None])

    def features(self, ids, condition, where=None, clean=None, cache=None) -> Tensor:
        x = self.ids(ids) + condition.embedding  # B, t, h, w, D
        x = torch.relu(self.nearby(x.movedim(-1, 1)).movedim(1, -1))
        return x if where is None else x.flatten(0, 3).index_select(0, where)


GENERATORS.register("nearby", NearbyConfig, Nearby)


def nearby_debug() -> GeneratorRecipe:
    return replace(masked_debug(), generator=NearbySizes())


if __name__ == "__main__":
    train_generator(nearby_debug(), sys.argv[2], phenaki.load(sys.argv[1]))
