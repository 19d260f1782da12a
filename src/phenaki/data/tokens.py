"""Token shards as a source: precomputed ids, and optionally text embeddings, so that training needs neither network.

A set of token shards is a folder of tar files in WebDataset's format with `tokens.json`, which records what made them.
A sample is one safetensors member with `ids` (t, h, w) in the smallest integer type that holds the vocabulary and
optionally `text` (L, D) in float16 and `actions` (T, A), beside a `.json` with its captions. Where captions change,
`text` holds the embeddings of all of them and `text_lengths` how many each has. `data/tokenizing.py` writes them.

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

from phenaki.core.actions import ActionSpec
from phenaki.core.errors import BadSample
from phenaki.core.grid import frame_count, latent_frames, latent_index
from phenaki.data.captions import caption_frames, check_caption_starts, clip_captions, draw_caption
from phenaki.data.config import Size, height_and_width
from phenaki.data.sample import EncodedSample
from phenaki.data.sources import ShardSource
from phenaki.media.view import ClipView, reading_errors
from phenaki.tokenizers import TokenizerSpec

TOKENS = "tokens.json"
FIELD = "safetensors"  # of a sample, in its shard
NO_END = np.iinfo(np.int64).max  # of the latent frames of the last caption

_FIRST_WINDOWS = 0.1  # fraction at the start of a recording: its first latent frame, of one frame, is rare elsewhere


def rank_prefix(rank: int) -> str:
    """NAME in the files of process `rank`."""
    return f"tokens-{rank:03d}"


@dataclass(frozen=True)
class TokenSet:
    """tokens.json: what made a set of token shards.

    tokenizer, text_encoder: fingerprints; "" if there are no text embeddings.
    spec: what a generator must know about the tokenizer.
    frames, size: of the clips; size 0 is the tokenizer's, frames 0 stands for recordings of any length.
    text_width: of the embeddings.
    templates: of captions, for labels.
    config, processes: of `data/tokenizing.py`; resuming requires the same.
    causal: whether the first ids of a clip are the ids of its first frames.
    actions: of the samples; None if they have none.
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
    actions: ActionSpec | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the clips in px."""
        return height_and_width(self.size or self.spec.image_size)


class Tokens(NamedTuple):
    """ids int64 (t, h, w), their caption, and its embeddings float16 (L, D) if the set has them.

    text_frames: int64 (L, 2), the latent frames [first, end) of each embedding, if captions change. actions,
    timed_captions: as in `Sample`. start: the latent frame of its recording at which a window of ids begins; None in
    sets of clips.
    """

    ids: np.ndarray
    caption: str
    continued: bool
    text: np.ndarray | None
    text_frames: np.ndarray | None = None
    actions: np.ndarray | None = None
    timed_captions: tuple[tuple[int, str], ...] = ()
    start: int | None = None


class TokenSource(ShardSource):
    """Samples of a set of token shards; their captions are always read, for previews.

    Clips of fewer frames are the first ids of longer ones. Of recordings they are windows that begin at any latent
    frame (in a view that is not random, at the first); actions and captions are then those of a clip that was cut at
    the last frame of that latent frame.
    """

    def __init__(
        self,
        shards: Sequence[str],
        made_by: TokenSet,
        templates: tuple[str, ...] = (),
        captions: bool = True,
        actions: bool = False,
    ):
        super().__init__(shards, templates or made_by.templates, actions=made_by.actions if actions else None)
        self.made_by, self._captions_needed = made_by, captions

    def sample(self, item: EncodedSample | BadSample, view: ClipView, rng: np.random.Generator) -> Tokens:
        if isinstance(item, BadSample):
            raise item
        try:
            with reading_errors():
                return self._sample(item, view, rng)
        except BadSample as error:
            raise BadSample(f"{item.name}: {error}") from error

    def _sample(self, item: EncodedSample, view: ClipView, rng: np.random.Generator) -> Tokens:
        spec, period = self.made_by.spec, self.made_by.spec.patch[0]
        steps = latent_frames(view.frames, period)
        area = spec.grid(view.frames, *view.size)[1:]
        try:
            arrays = load(item.media)
            ids, text = arrays["ids"], arrays["text"] if self.made_by.text_encoder else None
        except (SafetensorError, KeyError) as error:
            raise BadSample(f"it has no ids ({error})") from error
        fits = ids.dtype.kind in "iu" and ids.shape[1:] == area and len(ids) >= steps
        if not fits or ids.min() < 0 or ids.max() >= spec.vocab_size:
            raise BadSample(
                f"ids of shape {ids.shape} and type {ids.dtype} from {ids.min(initial=0)} to {ids.max(initial=0)}; "
                f"{steps} latent frames of {area[0]}x{area[1]} ids below {spec.vocab_size} are needed"
            )
        if text is not None and not _is_text(text, self.made_by.text_width):
            raise BadSample(
                f"text embeddings of shape {text.shape} and type {text.dtype}; finite ones of width "
                f"{self.made_by.text_width} are needed"
            )
        start = self._draw_start(len(ids) - steps, view, rng)
        frames, length = (start or 0) * period + np.arange(view.frames), frame_count(len(ids), period)
        actions = None
        if self.actions:
            if "actions" not in arrays:
                raise BadSample("it has no actions")
            actions = self.actions.resample(self.actions.check(arrays["actions"], length), frames)
        text_frames = None
        if item.timed_captions:
            instants = frames / spec.fps
            check_caption_starts(item.timed_captions, length / spec.fps)
            caption, timed = clip_captions(item.timed_captions, instants)
            if text is not None:
                firsts = caption_frames(item.timed_captions, instants)
                text, text_frames = _text_of_window(text, arrays.get("text_lengths"), firsts, period)
        else:
            caption, timed = draw_caption(item.captions, item.label, self.templates, rng), ()
        if self._captions_needed and not caption:
            raise BadSample("it has no caption")
        ids = ids[start or 0 :][:steps].astype(np.int64)
        continued = bool(item.metadata.get("continued"))
        return Tokens(ids, caption, continued, text, text_frames, actions, timed, start)

    def _draw_start(self, spare: int, view: ClipView, rng: np.random.Generator) -> int | None:
        """The latent frame at which a window begins, of the `spare` ones and the first; None in sets of clips."""
        if self.made_by.frames:
            return None
        return int(rng.integers(spare + 1)) if view.random and rng.random() >= _FIRST_WINDOWS else 0


def _text_of_window(
    text: np.ndarray, lengths: np.ndarray | None, firsts: dict[int, int], period: int
) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings (L, D) of the captions that begin at the frames `firsts`, by index, and their latent frames."""
    if lengths is None or lengths.sum() != len(text) or len(lengths) <= max(firsts.values()):
        raise BadSample("its text_lengths are not those of its captions")
    pieces = np.split(text, np.cumsum(lengths)[:-1])
    edges = [*(latent_index(frame, period) for frame in firsts), NO_END]
    spans = [np.tile(edges[at : at + 2], (len(pieces[index]), 1)) for at, index in enumerate(firsts.values())]
    return np.concatenate([pieces[index] for index in firsts.values()]), np.concatenate(spans)


def _is_text(text: np.ndarray, width: int) -> bool:
    return text.dtype.kind == "f" and text.shape[1:] == (width,) and bool(np.isfinite(text).all())
