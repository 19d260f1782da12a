"""A text encoder in one file: a vector for each character and each position, trained with the generator.

python examples/extend/text_encoder.py runs/tokenizer/tokenizer runs/characters
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import phenaki
from phenaki.conditioning import Text, TextEncoder
from phenaki.core.registry import TEXT_ENCODERS
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.recipes import masked_debug


@dataclass(frozen=True)
class CharacterConfig:
    width: int = 64
    length: int = 256

    def check(self, prompt: str) -> None:
        if not prompt.isascii() or len(prompt) > self.length:
            raise phenaki.PhenakiError(f"{prompt!r}: write at most {self.length} characters of ASCII")


class CharacterEncoder(TextEncoder):
    def __init__(self, config: CharacterConfig):
        super().__init__()
        self.config, self.width = config, config.width
        self.characters = nn.Embedding(128, config.width)
        self.positions = nn.Embedding(config.length, config.width)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return pad_sequence([torch.tensor(list(prompt.encode()), dtype=torch.long) for prompt in prompts], True)

    def forward(self, tokens: Tensor) -> Text:
        return Text(self.characters(tokens) + self.positions.weight[: tokens.shape[1]], tokens != 0)


TEXT_ENCODERS.register("characters", CharacterConfig, CharacterEncoder)


def characters_debug() -> GeneratorRecipe:
    return replace(masked_debug(), text=CharacterConfig())


if __name__ == "__main__":
    train_generator(characters_debug(), sys.argv[2], phenaki.load(sys.argv[1]))
