"""What a model was trained to show, and which words of a prompt it has never read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from phenaki.core.errors import PhenakiError, PhenakiWarning, shortened

_MAX_NAMED = 6


@dataclass(frozen=True)
class Domain:
    """The section "domain" of model.json.

    subject: what the videos show, in a phrase such as "moving shapes"; "" is unknown. prompts: examples. words: all
    words, in lower case, of the captions that it was trained with; none: any may be known, as a pretrained text encoder
    has read more. license: of the weights, an SPDX identifier.
    """

    subject: str = ""
    prompts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    license: str = ""

    def unknown_words(self, prompts: Iterable[str]) -> list[str]:
        """Words of the prompts that the model has never read, in their order, each once."""
        if not self.words:
            return []
        words = dict.fromkeys(word for prompt in prompts for word in split_words(prompt))
        return [word for word in words if word not in set(self.words)]

    def advice(self, prompts: Iterable[str], model: str) -> str:
        """What the model, by its name, knows, words of the prompts that it does not, and an example; "" if none."""
        if not (unknown := self.unknown_words(prompts)):
            return ""
        knows = f"{model or 'this model'} knows {self.subject or 'the words of its training captions'} only"
        example = f"; try: {self.prompts[0]!r}" if self.prompts else ""
        return f"{knows}; unknown: {shortened(unknown, _MAX_NAMED)}{example}"

    def check(self, prompts: Iterable[str], model: str, strict: bool) -> None:
        """Warn about words that the model does not know; or, if `strict`, raise PhenakiError."""
        if not (sentence := self.advice(prompts, model)):
            return
        if strict:
            raise PhenakiError(sentence)
        warnings.warn(sentence, PhenakiWarning, stacklevel=4)


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())
