"""Where the second stage gets ids and text from: token shards, or the networks that make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phenaki.data.config import DataConfig
from phenaki.data.mix import Batch
from phenaki.data.places import token_set
from phenaki.data.tokens import TOKENS, TokenSet
from phenaki.errors import PhenakiError
from phenaki.hub import fingerprint
from phenaki.text import Text, TextEncoder, WordEncoder, WordEncoderConfig
from phenaki.tokenizer import Tokenizer, TokenizerFacts
from phenaki.video import to_float


@dataclass(frozen=True)
class Inputs:
    """`facts` and `fingerprint` are those of the tokenizer, which is None where all ids come from token shards.

    `text_width`: of the embeddings. `text_encoder` is not needed where token shards bring these, whose fingerprint is
    `text_fingerprint`; where that is "" it is one that is trained with the generator, and is put in by the training.
    `check_caption` raises PhenakiError for what the text encoder cannot read; None where there are embeddings already.
    `causal`: whether the first ids of a clip are those of its first frames.
    """

    facts: TokenizerFacts
    fingerprint: str
    tokenizer: Tokenizer | None
    text_encoder: TextEncoder | None
    text_width: int
    text_fingerprint: str
    check_caption: Callable[[str], None] | None
    causal: bool

    @property
    def learns_text(self) -> bool:
        return not self.text_fingerprint

    def ids(self, batch: Batch, device: torch.device) -> Tensor:
        """int64 (B, t, h, w)."""
        return batch["ids"].to(device) if "ids" in batch else self.tokenizer.encode(to_float(batch["video"].to(device)))

    def text(self, batch: Batch, device: torch.device) -> Text:
        if "text" in batch:
            return Text(batch["text"].to(device), batch["text_mask"].to(device))
        tokens = self.text_encoder.tokenize(batch["captions"]).to(device)
        return self.text_encoder(tokens)


def open_inputs(
    data: DataConfig, words: WordEncoderConfig, tokenizer: Tokenizer | None, text_encoder: TextEncoder | None
) -> Inputs:
    """What the sources of `data` need. A text encoder that is given stays frozen; without one, and without embeddings
    in token shards, one of the configuration `words` is to be trained.

    Raises PhenakiError where sources, tokenizer and text encoder do not belong together.
    """
    sets = [(place, token_set(place)) for place in data.places]
    made = [(place, made_by) for place, made_by in sets if made_by]
    videos = [place for place, made_by in sets if not made_by]
    if videos and tokenizer is None:
        raise PhenakiError(
            f"'{videos[0]}' holds no {TOKENS}, so no ids: say which tokenizer is to make them (--tokenizer)"
        )
    first = made[0][1] if made else None
    ids_of = fingerprint(tokenizer) if tokenizer else first.tokenizer
    text_of = first.text_encoder if first else ""
    for place, made_by in made:
        _check(place, made_by, ids_of, text_of)
        if not made_by.causal and min(data.lengths) < made_by.frames:
            raise PhenakiError(
                f"the ids in '{place}' are of {made_by.frames} frames, and their tokenizer is not causal: those of "
                f"{min(data.lengths)} frames are not the first of them. Write the shorter clips as token shards of "
                "their own, or leave them out of data.lengths"
            )
    if text_of and videos:
        raise PhenakiError(f"'{made[0][0]}' brings text embeddings and '{videos[0]}' does not: tokenize both alike")
    read_by = fingerprint(text_encoder) if text_encoder else text_of
    if text_of and read_by != text_of:
        raise PhenakiError(f"the text embeddings in '{made[0][0]}' are of another text encoder than the one given")
    facts = tokenizer.facts if tokenizer else first.facts
    data.check_tokenizer(facts.image_size, facts.fps)
    for network in (tokenizer, text_encoder):
        if network is not None:
            network.eval().requires_grad_(False)
    width = first.text_width if text_of else text_encoder.width if text_encoder else words.width
    check_caption = None if text_of else _caption_rule(words, text_encoder)
    causal = tokenizer.causal if tokenizer else first.causal
    return Inputs(facts, ids_of, tokenizer, text_encoder, width, read_by, check_caption, causal)


def _caption_rule(words: WordEncoderConfig, text_encoder: TextEncoder | None) -> Callable[[str], None]:
    """The check of a text encoder that has no weights, so that it weighs nothing on its way to data workers."""
    kind, config = (type(text_encoder), text_encoder.config) if text_encoder else (WordEncoder, words)
    with torch.device("meta"):
        return kind(config).check


def _check(place: str, made_by: TokenSet, ids_of: str, text_of: str) -> None:
    if made_by.tokenizer != ids_of:
        raise PhenakiError(
            f"the ids in '{place}' were written by another tokenizer (fingerprint {made_by.tokenizer[:12]}, not "
            f"{ids_of[:12]}): name that one, or write them anew with `phenaki data tokenize`"
        )
    if made_by.text_encoder != text_of:
        raise PhenakiError(f"the text embeddings in '{place}' and other data.sources differ: tokenize all alike")
