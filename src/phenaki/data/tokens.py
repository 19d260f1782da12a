"""Token shards as a source: precomputed ids, and optionally text embeddings, so that training needs neither network.

A set of token shards is a folder of tar files in WebDataset's format with `tokens.json`, which records what made them.
A sample is one safetensors member with `ids` (t, h, w) in the smallest integer type that holds the vocabulary and
optionally `text` (L, D) in float16, beside a `.json` with its captions. `data/tokenizing.py` writes them.

Each process writes its own files: NAME-000000.tar, NAME-000001.tar, ..., NAME-000000.bad.txt with the samples skipped
since the previous shard, if any, and NAME.json with its progress.
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
    """NAME in the files of process `rank`."""
    return f"tokens-{rank:03d}"


@dataclass(frozen=True)
class TokenSet:
    """tokens.json: what made a set of token shards.

    tokenizer, text_encoder: fingerprints; "" if there are no text embeddings.
    spec: what a generator must know about the tokenizer.
    frames, size: of the clips; size 0 is the tokenizer's.
    text_width: of the embeddings.
    templates: of captions, for labels.
    config, processes: of `data/tokenizing.py`; resuming requires the same.
    causal: whether the first ids of a clip are the ids of its first frames.
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
    """ids int64 (t, h, w), their caption, and its embeddings float16 (L, D) if the set has them.

    actions, timed_captions: as in `Sample`. start: the latent frame of its recording at which a window of ids begins;
    None in sets of clips.
    """

    ids: np.ndarray
    caption: str
    continued: bool
    text: np.ndarray | None
    actions: np.ndarray | None = None
    timed_captions: tuple[tuple[int, str], ...] = ()
    start: int | None = None


class TokenSource(ShardSource):
    """Samples of a set of token shards. Clips of fewer frames are the first ids of longer ones."""

    def __init__(
        self, shards: Sequence[str], made_by: TokenSet, templates: tuple[str, ...] = (), captions: bool = True
    ):
        super().__init__(shards, templates or made_by.templates)  # captions are always read, for previews
        self.made_by, self._captions_needed = made_by, captions

    def sample(self, item: EncodedSample | BadSample, view: ClipView, rng: np.random.Generator) -> Tokens:
        if isinstance(item, BadSample):
            raise item
        try:
            arrays = load(item.media)
            ids, text = arrays["ids"], arrays["text"] if self.made_by.text_encoder else None
        except (SafetensorError, KeyError) as error:
            raise BadSample(f"{item.name}: it has no ids ({error})") from error
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
