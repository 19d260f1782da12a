"""A model's networks, passed around as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from phenaki.conditioning.base import Text, TextEncoder
from phenaki.core.arguments import check_types
from phenaki.core.config import quoted
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import Precision, autocast, check_dtype
from phenaki.generators.base import Generator
from phenaki.generators.critic import Critic, check_critic
from phenaki.tokenizers.base import Tokenizer

MAX_SAMPLES = 1024


@dataclass(frozen=True)
class Components:
    """Generator, tokenizer, text encoder and critic. Without a tokenizer there are ids but no video; without a text
    encoder text comes as embeddings.

    Raises PhenakiError for networks that were not built for one another.
    """

    generator: Generator
    tokenizer: Tokenizer | None = None
    text_encoder: TextEncoder | None = None
    critic: Critic | None = None

    def __post_init__(self) -> None:
        if self.tokenizer is not None:
            self.generator.check_tokenizer(self.tokenizer)
        if self.text_encoder is not None:
            check_text_width(self.text_encoder.width, self.generator)
        if self.critic is not None:
            check_critic(self.critic, self.generator)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks there are, by kind of component."""
        kinds = ("tokenizer", "generator", "text", "critic")
        networks = self.tokenizer, self.generator, self.text_encoder, self.critic
        return {kind: network for kind, network in zip(kinds, networks, strict=True) if network is not None}

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def precision(self) -> Precision:
        """That of sampling and of the text encoder."""
        return self.generator.precision

    def check_dtypes(self) -> None:
        """Raise PhenakiError for networks in float64, in which sampling does not run."""
        for network in self.networks.values():
            if any(weight.dtype == torch.float64 for weight in network.parameters()):
                check_dtype(torch.float64, (torch.float32, torch.bfloat16), type(network).__name__)

    def check_prompt(self, prompt: str) -> None:
        """Raise PhenakiError for a prompt that the text encoder cannot read."""
        if not isinstance(prompt, str):
            raise PhenakiError(f"a prompt is text, not {prompt!r}")
        self.text_encoder.check(prompt)

    @torch.no_grad()
    @check_types
    def encode_text(self, prompts: str | Sequence[str] | Text, samples: int) -> Text:
        """The text of `samples` videos: embeddings (B, L, D) and mask (B, L).

        `prompts`: one for all samples, one for each, or embeddings of either number. Raises PhenakiError for prompts
        that are neither one nor one for each, or that the text encoder cannot read.
        """
        self.check_dtypes()
        check_samples(samples)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        for prompt in () if isinstance(prompts, Text) else prompts:
            if not isinstance(prompt, str):
                raise PhenakiError(f"a prompt is text, not {quoted(prompt)}")
        count = len(prompts.mask) if isinstance(prompts, Text) else len(prompts)
        if count not in (1, samples):
            raise PhenakiError(f"a scene has {count} prompts for {samples} samples: give one, or one for each")
        if isinstance(prompts, Text):
            return prompts if count == samples else prompts.repeat(samples)
        with autocast(self.device, self.precision):
            return self.text_encoder.encode(list(prompts) if count == samples else list(prompts) * samples)


def check_samples(samples: int) -> None:
    """Raise PhenakiError for a number of videos that cannot be generated at once."""
    if not 1 <= samples <= MAX_SAMPLES:
        raise PhenakiError(f"{samples} samples cannot be generated: give 1 to {MAX_SAMPLES:,}")


def check_text_width(width: int, generator: Generator) -> None:
    """Raise PhenakiError unless the generator reads text embeddings of that width."""
    if generator.config.text_width != width:
        raise PhenakiError(
            f"this generator reads text of width {generator.config.text_width}, and this text has width {width}: use "
            "the text encoder that the generator was trained with"
        )
