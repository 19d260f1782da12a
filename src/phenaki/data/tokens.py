"""Token shards as a source: ids, and maybe text embeddings, computed once, so that training needs neither network.

A set of token shards is a folder of tar files in WebDataset's format with `tokens.json`, which says what made them. A
sample is one safetensors member with `ids` (t, h, w) in the smallest integer type that holds the vocabulary, and where
asked for `text` (L, D) in float16, beside a `.json` with its captions. `data/tokenizing.py` writes them.

Each process has written a share of its own: NAME-000000.tar, NAME-000001.tar, ..., NAME-000000.bad.txt with what was
left out since the shard before, where anything was, and NAME.json, which says where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from phenaki.core.errors import BadSample
from phenaki.core.grid import latent_frames
from phenaki.data.captions import draw_caption
from phenaki.data.config import Size, height_and_width
from phenaki.data.sample import EncodedSample
from phenaki.data.sources import ShardSource
from phenaki.media.view import ClipView
from phenaki.tokenizers import TokenizerSpec

TOKENS = "tokens.json"
FIELD = "safetensors"  # of a sample, in its shard


def rank_prefix(rank: int) -> str:
    """NAME, in the files that process `rank` writes."""
    return f"tokens-{rank:03d}"


@dataclass(frozen=True)
class TokenSet:
    """tokens.json: what made the samples of a set of token shards.

    `tokenizer` and `text_encoder` ("" where there are no embeddings): their fingerprints. `spec`: what a generator has
    to know of the tokenizer. `frames`, `size`: of the clips; 0 is the tokenizer's size. `text_width`: of the
    embeddings. `templates`: for labels. `config` and `processes`: what `data/tokenizing.py` was asked for and
    in how many processes, which who goes on has to repeat. `causal`: whether the first ids of a clip are those of its
    first frames.
    """

    tokenizer: str
    spec: TokenizerSpec
    frames: int
    text_encoder: str = ""
    text_width: int = 0
    templates: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    causal: bool = True
    size: Size = 0

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the clips in px."""
        return height_and_width(self.size or self.spec.image_size)


class Tokens(NamedTuple):
    """ids int64 (t, h, w), their caption, and its embeddings float16 (L, D) where the set has them."""

    ids: np.ndarray
    caption: str
    continued: bool
    text: np.ndarray | None


class TokenSource(ShardSource):
    """Samples of a set of token shards; fewer frames than its clips have are the first ids of each."""

    def __init__(
        self, shards: Sequence[str], made_by: TokenSet, templates: tuple[str, ...] = (), captions: bool = True
    ):
        super().__init__(shards, templates or made_by.templates)  # which reads captions in any case: people see them
        self.made_by, self._captions_needed = made_by, captions

    def sample(self, item: EncodedSample | BadSample, view: ClipView, rng: np.random.Generator) -> Tokens:
        if isinstance(item, BadSample):
            raise item
        try:
            arrays = load(item.media)
            ids, text = arrays["ids"], arrays["text"] if self.made_by.text_encoder else None
        except (SafetensorError, KeyError) as error:
            raise BadSample(f"{item.name}: it holds no ids of phenaki ({error})") from error
        spec = self.made_by.spec
        steps = latent_frames(view.frames, spec.patch[0])
        area = view.size[0] // spec.patch[1], view.size[1] // spec.patch[2]
        fits = ids.dtype.kind in "iu" and ids.shape[1:] == area and len(ids) >= steps
        if not fits or ids.min() < 0 or ids.max() >= spec.vocab_size:
            raise BadSample(
                f"{item.name}: ids of shape {ids.shape} and type {ids.dtype} from {ids.min(initial=0)} to "
                f"{ids.max(initial=0)}; {steps} time steps of {area[0]}x{area[1]} ids below {spec.vocab_size} "
                "are needed"
            )
        if text is not None and not _is_text(text, self.made_by.text_width):
            raise BadSample(
                f"{item.name}: text embeddings of shape {text.shape} and type {text.dtype}; finite ones of width "
                f"{self.made_by.text_width} are needed"
            )
        caption = draw_caption(item.captions, item.label, self.templates, rng)
        if self._captions_needed and not caption:
            raise BadSample(f"{item.name}: it has no caption")
        return Tokens(ids[:steps].astype(np.int64), caption, bool(item.metadata.get("continued")), text)


def _is_text(text: np.ndarray, width: int) -> bool:
    return text.dtype.kind == "f" and text.shape[1:] == (width,) and bool(np.isfinite(text).all())
