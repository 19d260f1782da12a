"""Critics: which ids of a clip are real, and which a generator put there (Token-Critic, 2209.04439, section 3).

A critic is shown ids that are all filled in, and decoding draws anew what it takes for false (`sampling/critic.py`).

Shapes: B batch, t, h, w token grid, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.registry import CRITICS
from phenaki.generators.base import Generator
from phenaki.generators.masked import MaskedTransformer, MaskedTransformerConfig

CriticKind = Literal["none", "token", "self"]


@dataclass(frozen=True)
class CriticConfig:
    """The critic that a training brings up. `token`: a network of its own, of `width` and `layers`, None being the
    generator's; `self`: a head on the generator's features, from whose loss, times `weight`, the generator learns too.

    `temperature`: at which ids are drawn from the generator's logits for the critic to judge; that of sampling shows it
    what it will see. `lr`: of its own optimizer, None being the generator's; all else follows the generator's.
    """

    kind: CriticKind = "none"
    width: int | None = None
    layers: int | None = None
    weight: float = 1.0
    temperature: float = 1.0
    lr: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "temperature"):
            if not getattr(self, name) >= 0:
                raise PhenakiError(f"critic.{name} {getattr(self, name)} must not be below 0")
        if self.layers is not None and self.layers < 1:
            raise PhenakiError(f"critic.layers {self.layers} must be 1 or more, or null for those of the generator")
        if self.lr is not None and not self.lr > 0:
            raise PhenakiError(f"critic.lr {self.lr} must be above 0, or null for that of the generator")


class TokenCritic(MaskedTransformer):
    """The generator's network with one output, which masks nothing: ids int64 (B, t, h, w) and text -> log-odds
    (B, t, h, w, 1) that an id is real."""

    outputs = 1

    def drop(self, text: Text, dropped: Tensor) -> Text:
        """As of the generator. A text encoder that learns does so from the generator alone."""
        return super().drop(Text(text.embeddings.detach(), text.mask), dropped)

    def trunk(self, generator: Generator) -> Generator:
        return self


@dataclass(frozen=True)
class SelfCriticConfig:
    """`width`: of the generator's features."""

    width: int


class SelfCritic(nn.Module):
    """A head on a generator's own features (B, t, h, w, D), of ids that are all filled in -> log-odds (B, t, h, w, 1)
    that an id is real."""

    def __init__(self, config: SelfCriticConfig):
        super().__init__()
        self.config = config
        self.head = nn.Linear(config.width, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def trunk(self, generator: Generator) -> Generator:
        return generator


Critic = TokenCritic | SelfCritic
CRITICS.register("token", MaskedTransformerConfig, TokenCritic)
CRITICS.register("self", SelfCriticConfig, SelfCritic)


def build_critic(config: CriticConfig, generator: Generator) -> Critic:
    """A new critic, of the kind "token" or "self", for a generator."""
    known = generator.config
    if config.kind == "self":
        return SelfCritic(SelfCriticConfig(known.width))
    width = known.width if config.width is None else config.width
    layers = known.layers if config.layers is None else config.layers
    return TokenCritic(MaskedTransformerConfig(known.tokenizer, known.text_width, known.frames, width, layers))


def check_critic(critic: Critic, generator: Generator) -> None:
    """Raise PhenakiError for a critic of other ids, another text or another width of features than the generator's."""
    names = ("width",) if isinstance(critic, SelfCritic) else ("tokenizer", "text_width")
    for name in names:
        judges, writes = getattr(critic.config, name), getattr(generator.config, name)
        if judges != writes:
            raise PhenakiError(
                f"this critic was built for a generator of {name} {judges}, and this one has {writes}: "
                "use the critic that was trained with it"
            )


def scores(critic: Critic, generator: Generator, text: Text, dropped: Tensor) -> Callable[[Tensor], Tensor]:
    """What the critic says of ids beside a text, as the text encoder gives it, hidden where `dropped` (bool (B,)).

    Returns a function: ids int64 (B, t, h, w), all filled in -> float32 (B, t, h, w), log-odds that an id is real. The
    text's keys and values are computed once.
    """
    trunk = critic.trunk(generator)
    text = trunk.drop(text, dropped)
    context = trunk.context(text)
    return lambda ids: critic.head(trunk.features(ids, context, text.mask)).squeeze(-1).float()
