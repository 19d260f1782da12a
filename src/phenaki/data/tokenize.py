"""Writing token shards: every sample of a place through the tokenizer, once or in several augmented passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from phenaki.config import from_dict, to_dict
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.media import ClipView
from phenaki.data.places import Split, check_holds_clips, open_source
from phenaki.data.sample import BadSample, Encoded
from phenaki.data.shards import ShardWriter
from phenaki.data.sources import Position, Sample, Source, Stream, World
from phenaki.data.storage import join, put_json, read_if_there
from phenaki.data.tokens import TOKENS, TokenSet
from phenaki.errors import PhenakiError
from phenaki.hub import fingerprint
from phenaki.precision import autocast
from phenaki.text import TextEncoder
from phenaki.tokenizer import Tokenizer
from phenaki.video import to_float

_SHARD_SAMPLES = 1024
_DECODERS = 4  # threads; PyAV works outside Python's lock


@dataclass(frozen=True)
class TokenizeConfig:
    """Which samples, and how often.

    frames: of each clip. passes: how often each sample is written, each time from a random place in time and with a
    random crop; a single pass takes the middle of both. flip: mirror every second clip of several passes. samples: how
    many are written, 0 for all, which the procedural world does not have. batch: clips that are encoded at once.
    """

    source: SourceConfig
    split: Split = "train"
    frames: int = 11
    passes: int = 1
    flip: bool = False
    samples: int = 0
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("passes", 1), ("samples", 0), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise PhenakiError(f"{name} {getattr(self, name)} must be {least} or more")
        if self.flip and self.passes == 1:
            raise PhenakiError("clips are mirrored by chance: --flip needs --passes 2 or more")


@dataclass
class Tokenized:
    """What came of it in one process so far. written: samples; bad: those left out, by name with the reason.

    taken, position, shards: where it goes on. finished: whether there is nothing left to do.
    """

    written: int = 0
    bad: list[str] = field(default_factory=list)
    taken: int = 0
    position: Position = field(default_factory=dict)
    shards: int = 0
    finished: bool = False


def tokenize(
    config: TokenizeConfig,
    out: str,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder | None = None,
    rank: int = 0,
    world_size: int = 1,
    on_written: Callable[[int], None] = lambda written: None,
) -> Tokenized:
    """Write ids and captions of the samples of a source as token shards in the folder or at the s3:// place `out`.

    With `text_encoder`, one caption is drawn for each sample and its embeddings are written too. Each of `world_size`
    processes writes a share, in shards of its own. One that was stopped goes on behind its last whole shard and writes
    what it would have written. `on_written` is told how many samples this process has written. tokens.json, which says
    what made the samples and with which settings, is there before any of them, and every process compares it.

    Raises PhenakiError where `out` was begun with other networks, settings or processes, and where no sample is usable.
    """
    tokenizer.grid(config.frames, *tokenizer.config.image_size)
    data = DataConfig(
        sources=(config.source,),
        size=tuple(tokenizer.config.image_size),
        fps=tokenizer.config.fps,
        lengths=(config.frames,),
        seed=config.seed,
    )
    check_holds_clips(config.source.place)
    source = open_source(config.source, data, captions=True, split=config.split)
    if isinstance(source, World) and not config.samples:
        raise PhenakiError("the procedural world has no end: say how many samples are wanted (--samples)")
    view = replace(data.view(config.frames), random=config.passes > 1, flip=config.flip)
    made_by = TokenSet(
        tokenizer=fingerprint(tokenizer),
        facts=tokenizer.facts,
        frames=config.frames,
        text_encoder=fingerprint(text_encoder) if text_encoder else "",
        text_width=text_encoder.width if text_encoder else 0,
        templates=() if text_encoder else getattr(source, "templates", ()),
        config=to_dict(config),
        processes=world_size,
    )
    _is_begun(out, made_by)
    journal = join(out, f"tokens-{rank:03d}.json")
    done = _read(journal)
    encode = partial(_encoded, view=view, tokenizer=tokenizer, text_encoder=text_encoder, source=source)
    wanted = len(range(rank, config.samples, world_size)) if config.samples else None
    items = source.items(Stream(config.seed, rank, world_size, shuffle=0, epochs=config.passes), done.position)
    first, before = done.shards, done.written
    with ShardWriter(out, f"tokens-{rank:03d}", first=first) as writer, ThreadPoolExecutor(_DECODERS) as threads:

        def finish_shard() -> None:
            nonlocal before
            writer.finish_shard()
            done.shards, before = first + len(writer.finished), done.written
            if done.written:  # else the place may still become that of other settings
                put_json(journal, to_dict(done))

        while not done.finished:
            group = list(islice(items, config.batch))
            done.finished = len(group) < config.batch
            rngs = [np.random.default_rng([config.seed, rank, done.taken + i]) for i in range(len(group))]
            results = encode([item for item, _ in group], rngs, threads=threads)
            for (_, done.position), result in zip(group, results, strict=True):
                done.taken += 1
                if isinstance(result, BadSample):
                    done.bad.append(str(result))
                elif result is not None and done.written != wanted:
                    if not done.written and not _is_begun(out, made_by):
                        put_json(join(out, TOKENS), to_dict(made_by))
                    writer.write(f"{done.taken:09d}", result)
                    done.written += 1
            done.finished |= done.written == wanted
            on_written(done.written)
            if done.finished or done.written - before >= _SHARD_SAMPLES:
                finish_shard()
    if not done.written and (done.bad or world_size == 1):  # else its share of a few samples is none at all
        raise PhenakiError(f"'{config.source.place}' has no usable sample{': ' + done.bad[-1] if done.bad else ''}")
    return done


@torch.no_grad()
def _encoded(
    items: list[Any],
    rngs: list[np.random.Generator],
    *,
    view: ClipView,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder | None,
    source: Source,
    threads: ThreadPoolExecutor,
) -> list[dict[str, bytes] | BadSample | None]:
    """The fields of each item in a shard; None for a still picture where clips are wanted."""

    def decoded(item: Any, rng: np.random.Generator) -> Sample | BadSample | None:
        try:
            sample = source.sample(item, view, rng)
            if text_encoder and sample is not None:
                text_encoder.check(sample.caption)
            return sample
        except PhenakiError as error:
            return error if isinstance(error, BadSample) else BadSample(f"{getattr(item, 'key', item)}: {error}")

    samples = list(threads.map(decoded, items, rngs))
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if not good:
        return samples
    device = next(tokenizer.parameters()).device
    video = to_float(torch.from_numpy(np.stack([sample.video for sample in good])).to(device))
    ids = tokenizer.encode(video).cpu().numpy().astype(np.min_scalar_type(tokenizer.vocab_size - 1))
    texts: list[np.ndarray | None] = [None] * len(good)
    if text_encoder:
        with autocast(device):
            text = text_encoder.encode([sample.caption for sample in good])
        pairs = zip(text.embeddings, text.mask, strict=True)
        texts = [embeddings[mask].half().cpu().numpy() for embeddings, mask in pairs]
    made = iter(zip(ids, texts, strict=True))
    return [
        _fields(item, sample, *next(made)) if isinstance(sample, Sample) else sample
        for item, sample in zip(items, samples, strict=True)
    ]


def _fields(item: Any, sample: Sample, ids: np.ndarray, text: np.ndarray | None) -> dict[str, bytes]:
    """All captions of a sample, to draw one of at each use; with embeddings the one that they are of."""
    words: dict[str, Any] = {"captions": [sample.caption] if sample.caption else []}
    if isinstance(item, Encoded):
        words["source"] = item.key
        if text is None:
            words |= {"captions": item.captions, "label": item.label}
    if sample.continued:
        words["continued"] = True
    arrays = {"ids": ids} if text is None else {"ids": ids, "text": text}
    return {"safetensors": save(arrays), "json": json.dumps(words).encode()}


def _is_begun(out: str, made_by: TokenSet) -> bool:
    """Whether tokens.json is there. Raises PhenakiError where it is that of other networks, settings or processes."""
    data = read_if_there(join(out, TOKENS))
    if data is None:
        return False
    begun = from_dict(TokenSet, json.loads(data), where=f"'{join(out, TOKENS)}'")
    if begun != made_by:
        raise PhenakiError(
            f"'{out}' was begun with another {_difference(begun, made_by)}: take the same to go on, or another place"
        )
    return True


def _difference(begun: TokenSet, made_by: TokenSet) -> str:
    if begun.processes != made_by.processes:
        return "process count"
    if begun.config != made_by.config:
        return "source or setting"
    return "tokenizer, text encoder or template"


def _read(journal: str) -> Tokenized:
    data = read_if_there(journal)
    return Tokenized() if data is None else from_dict(Tokenized, json.loads(data), where=f"'{journal}'")
