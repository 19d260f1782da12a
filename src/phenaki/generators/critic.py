"""Critics: which ids of a clip are real, and which a generator made up (Token-Critic, 2209.04439, section 3).

A critic sees complete clips; decoding resamples the ids that it takes for generated (`sampling/guidance.py`).

Shapes: B batch, t, h, w token grid, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.registry import CRITICS
from phenaki.generators.base import Condition, Generator
from phenaki.generators.masked import MaskedTransformer, MaskedTransformerConfig

CriticKind = Literal["none", "token", "self"]


@configclass
class CriticConfig:
    """The critic to train. `token`: a network of `width` and `layers` (None: the generator's); `self`: a head on the
    generator's features, through whose loss, times `weight`, the generator learns too.

    `temperature`: at which ids are sampled from the generator's logits for the critic to score; best that of decoding.
    `lr`: of the critic's optimizer (None: the generator's); its other settings are the generator's.
    """

    kind: CriticKind = "none"
    width: int | None = None
    layers: int | None = bounded(None, at_least=1)
    weight: float = bounded(1.0, at_least=0)
    temperature: float = bounded(1.0, at_least=0)
    lr: float | None = bounded(None, above=0)


class TokenCritic(MaskedTransformer):
    """The generator's network with one output: complete ids int64 (B, t, h, w) and text -> log-odds that each is real.

    A text encoder that is trained learns from the generator alone.
    """

    outputs = 1

    def condition_on(self, generator: Generator, text: Text, drop: Tensor | None = None) -> Condition:
        """The condition for `scores`; arguments as of `Generator.condition`."""
        return self.condition(text._replace(embeddings=text.embeddings.detach()), drop=drop)

    def scores(self, generator: Generator, ids: Tensor, condition: Condition) -> Tensor:
        """float32 (B, t, h, w), log-odds that each id of ids int64 (B, t, h, w) is real."""
        return self.logits(ids, condition).squeeze(-1).float()


@dataclass(frozen=True)
class SelfCriticConfig:
    """`width`: of the generator's features. `num_codebooks`: ids that it scores at each position."""

    width: int
    num_codebooks: int = 1


class SelfCritic(nn.Module):
    """A head on the generator's own features of complete ids -> log-odds that each is real."""

    def __init__(self, config: SelfCriticConfig):
        super().__init__()
        self.config = config
        self.head = nn.Linear(config.width, config.num_codebooks)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def condition_on(self, generator: Generator, text: Text, drop: Tensor | None = None) -> Condition:
        """The condition for `scores`; arguments as of `Generator.condition`."""
        return generator.condition(text, drop=drop)

    def scores(self, generator: Generator, ids: Tensor, condition: Condition) -> Tensor:
        """float32 (B, t, h, w), log-odds that each id of ids int64 (B, t, h, w) is real."""
        return self.head(generator.features(ids, condition)).flatten(-2).float()


Critic = TokenCritic | SelfCritic
CRITICS.register("token", MaskedTransformerConfig, TokenCritic)
CRITICS.register("self", SelfCriticConfig, SelfCritic)


def build_critic(config: CriticConfig, generator: Generator) -> Critic:
    """A new critic, of the kind "token" or "self", for a generator."""
    sizes = generator.config
    if generator.has_cache:
        raise PhenakiError("critics score whole clips, which a causal generator does not see: use critic.kind=none")
    if config.kind == "self":
        return SelfCritic(SelfCriticConfig(sizes.width, generator.num_codebooks))
    return TokenCritic(
        MaskedTransformerConfig(
            tokenizer=sizes.tokenizer,
            text_width=sizes.text_width,
            frames=sizes.frames,
            width=sizes.width if config.width is None else config.width,
            layers=sizes.layers if config.layers is None else config.layers,
        )
    )


def check_critic(critic: Critic, generator: Generator) -> None:
    """Raise PhenakiError for a critic built for other ids, text or features than the generator's."""
    names = ("width",) if isinstance(critic, SelfCritic) else ("tokenizer", "text_width")
    for name in names:
        expected, actual = getattr(critic.config, name), getattr(generator.config, name)
        if expected != actual:
            raise PhenakiError(
                f"this critic was built for a generator of {name} {expected}, and this one has {actual}: "
                "use the critic that was trained with it"
            )
