"""Writing token shards: every sample of a source through the tokenizer, once or in several augmented passes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save

from phenaki.conditioning import NoText, TextEncoder
from phenaki.core.actions import ActionSpec
from phenaki.core.components import fingerprint
from phenaki.core.config import bounded, configclass, from_dict, to_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.files import parse_json_object
from phenaki.core.grid import floor_frames
from phenaki.core.locks import lock_folder
from phenaki.core.precision import autocast
from phenaki.data.actions import compact
from phenaki.data.captions import TimedCaption
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.opening import Split, check_has_clips, open_source
from phenaki.data.sample import EncodedSample, check_bad_fraction
from phenaki.data.shards import ShardWriter
from phenaki.data.sources import Position, ProceduralSource, Sample, Source, StreamConfig
from phenaki.data.storage import check_outside, is_remote, join, make_folder, open_atomic, read_optional, write_json
from phenaki.data.tokens import FIELD, TOKENS, TokenSet, rank_prefix
from phenaki.media.convert import to_float
from phenaki.media.reader import probe
from phenaki.media.view import MAX_RECORDING_PIXELS, TOLERANCE, ClipView, check_clip, check_frames
from phenaki.tokenizers import Tokenizer

_SHARD_SAMPLES = 1024
_CHUNK = 64  # frames that are converted and encoded at once
_DECODERS = 4  # threads; PyAV works outside Python's lock


@configclass
class TokenizeConfig:
    """Which samples are written, and how often.

    frames: of each clip; 0 writes whole recordings, encoded as one stream, of which a training takes windows.
    passes: how often each sample is written, each time at a random start and with a random crop; a single pass takes
        the center of both.
    flip: mirror half of the clips; needs several passes.
    samples: how many are written, 0 for all; required for procedural worlds.
    batch: clips that are encoded at once.
    max_bad_fraction: stop above this fraction of unusable samples, checked from 100 samples on and at the end.
    """

    source: SourceConfig
    split: Split = "train"
    frames: int = bounded(11, at_least=0)
    passes: int = bounded(1, at_least=1)
    flip: bool = False
    samples: int = bounded(0, at_least=0)
    batch: int = bounded(16, at_least=1)
    seed: int = bounded(0, at_least=0)
    max_bad_fraction: float = bounded(0.1, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        if self.flip and self.passes == 1:
            raise PhenakiError("clips are mirrored at random: --flip needs --passes 2 or more")
        if self.passes > 1 and not self.frames:
            raise PhenakiError("whole recordings (--frames 0) are always the same: take --passes 1")

    def settings(self) -> dict[str, Any]:
        """The options that determine what is written, as plain data."""
        return {key: value for key, value in to_dict(self).items() if key != "max_bad_fraction"}


@dataclass
class Tokenized:
    """The progress of one process: samples taken, and of them written, bad, and still images where clips are wanted.

    position, shards: where it resumes. finished: whether nothing is left to do.
    """

    written: int = 0
    bad: int = 0
    stills: int = 0
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
    on_bad: Callable[[str], None] = lambda sentence: None,
    is_unit: bool = False,
) -> Tokenized:
    """Write ids and captions of the samples of a source as token shards into the local or s3:// folder `out`.

    With `text_encoder`, one caption is drawn for each sample and its embeddings are written too. Actions and captions
    that change are written where the source has them. Each of `world_size`
    processes writes its part, in its own shards. An interrupted process resumes after its last complete shard and
    writes what it would have written. `on_written` receives the number of samples this process has written, `on_bad`
    the name and problem of each bad one. `is_unit`: a part may have no usable samples; the caller checks the sum of all
    (`check_usable`). tokens.json, which records networks and settings, is written before the first
    sample, and every process checks it.

    Raises PhenakiError if `out` was started with other networks, settings or processes, if no sample is usable, and for
    more bad samples than `max_bad_fraction`; complete shards are kept.
    """
    check_outside(config.source.uri, out)
    period = tokenizer.patch[0]
    try:
        tokenizer.grid(config.frames or 1, *tokenizer.config.image_size)
        if not config.frames:
            tokenizer.encoder()  # raises for a tokenizer that cannot stream
    except PhenakiError as error:
        raise PhenakiError(f"--frames {config.frames}: {error}") from error
    data = DataConfig(
        sources=(config.source,),
        size=tuple(tokenizer.config.image_size),
        fps=tokenizer.config.fps,
        lengths=(config.frames or 1 + period,),
        seed=config.seed,
    )
    check_has_clips(config.source.uri)
    captions = not isinstance(text_encoder, NoText)
    source = open_source(config.source, data, captions, config.split, actions=True)
    if source.actions and config.flip:
        raise PhenakiError(f"'{config.source.uri}' has actions, of which left stays left: leave out --flip")
    if isinstance(source, ProceduralSource) and not config.samples:
        raise PhenakiError(f"'{config.source.uri}' is endless: set the number of samples (--samples)")
    if isinstance(source, ProceduralSource) and not config.frames:
        raise PhenakiError(
            f"'{config.source.uri}' is endless and has no recordings: set the frames of a clip (--frames)"
        )
    view = replace(data.view(data.lengths[0], config.source), random=config.passes > 1, flip=config.flip)
    made_by = TokenSet(
        tokenizer=fingerprint(tokenizer),
        spec=tokenizer.spec,
        frames=config.frames,
        text_encoder=fingerprint(text_encoder) if text_encoder else "",
        text_width=text_encoder.width if text_encoder else 0,
        templates=() if text_encoder else getattr(source, "templates", ()),
        config=config.settings(),
        processes=world_size,
        causal=tokenizer.causal,
        size=config.source.size,
        actions=source.actions,
    )
    with _locked(out, rank):
        writer = _RankWriter(out, rank, made_by)
        done = writer.done
        if done.finished:
            return done
        wanted = len(range(rank, config.samples, world_size)) if config.samples else None
        stream = StreamConfig(config.seed, rank, world_size, shuffle=0, epochs=config.passes)
        check_caption = text_encoder.check if text_encoder else None
        bad = f"named in {out}"
        with writer.writer, ThreadPoolExecutor(1 + _DECODERS) as threads:
            groups = _groups(source, stream, done, view, check_caption, config, period, threads)
            for group in _ahead(groups, threads):
                good = [decoded for decoded in group if isinstance(decoded.sample, Sample)]
                fields = iter(_encoded(good, tokenizer, text_encoder, source.actions) if good else [])
                for decoded in group:
                    done.taken, done.position = done.taken + 1, decoded.position
                    if isinstance(decoded.sample, BadSample):
                        bad = str(decoded.sample)
                        writer.skip(bad)
                        on_bad(bad)
                    elif decoded.sample is None:
                        done.stills += 1
                    elif done.written != wanted:
                        writer.write(next(fields))
                on_written(done.written)
                check_bad_fraction(done.bad, done.taken, config.max_bad_fraction, "--max-bad-fraction", bad)
                if done.written == wanted:
                    break
                writer.finish_full_shard()
            if not is_unit and (done.written or done.bad or world_size == 1):  # else this process may have no samples
                check_usable(config, done, bad)
            done.finished = True
            writer.finish_shard()
        return done


def _locked(out: str, rank: int) -> AbstractContextManager[None]:
    """The part of a process in a local folder, which no other process may write."""
    if is_remote(out):
        return nullcontext()
    return lock_folder(Path(out.removeprefix("file://")), "tokenizing", f".{rank_prefix(rank)}.lock")


def check_usable(config: TokenizeConfig, done: Tokenized, bad: str) -> None:
    """Raise PhenakiError if nothing was written, or too many samples are bad, of which `bad` is the last."""
    if done.written:
        check_bad_fraction(done.bad, done.taken, config.max_bad_fraction, "--max-bad-fraction", bad, final=True)
        return
    found = [bad.rstrip(".")] if done.bad else []
    found += [f"{done.stills:,} still images"] if done.stills else []
    what = f": {', and '.join(found)}" if found else ""
    wanted = f"Clips of {config.frames} frames" if config.frames else "Videos"
    raise PhenakiError(f"'{config.source.uri}' has no usable sample{what}. {wanted} are needed (--frames)")


# samples


class _Decoded(NamedTuple):
    """An item, the position after it, and its clip: None for a still image where clips are wanted."""

    item: Any
    position: Position
    sample: Sample | BadSample | None


def _groups(
    source: Source,
    stream: StreamConfig,
    done: Tokenized,
    view: ClipView,
    check_caption: Callable[[str], None] | None,
    config: TokenizeConfig,
    period: int,
    threads: ThreadPoolExecutor,
) -> Iterator[list[_Decoded]]:
    """What is left of the stream, in groups of `config.batch` clips, or of one recording."""

    def draw(numbered: tuple[int, tuple[Any, Position]]) -> _Decoded:
        number, (item, position) = numbered
        rng = np.random.default_rng([stream.seed, stream.index, number])
        try:
            shows = view if config.frames else _all_frames(item, view, period)
            return _Decoded(item, position, source.checked_sample(item, shows, rng, check_caption))
        except BadSample as error:
            return _Decoded(item, position, error)

    items = enumerate(source.items(stream, done.position), done.taken)
    while group := list(islice(items, config.batch if config.frames else 1)):
        yield list(threads.map(draw, group))


def _all_frames(item: EncodedSample | BadSample, view: ClipView, period: int) -> ClipView:
    """As many frames of a recording as make complete latent frames; at least two of those."""
    if isinstance(item, BadSample):
        raise item
    try:
        info = probe(item.media, item.suffix)
        check_frames(info.seconds, view.fps)
        frames = math.ceil((info.seconds - TOLERANCE) * view.fps)
        check_clip(frames, *view.size, MAX_RECORDING_PIXELS)
    except BadSample as error:
        raise BadSample(f"{item.name}: {error}") from error
    return replace(view, frames=max(1 + period, floor_frames(max(1, frames), period)))


def _ahead(groups: Iterator[list[_Decoded]], threads: ThreadPoolExecutor) -> Iterator[list[_Decoded]]:
    """The same groups, each prepared in a thread while the previous one is in use."""
    following = threads.submit(next, groups, None)
    while (group := following.result()) is not None:
        following = threads.submit(next, groups, None)
        yield group


@torch.no_grad()
def _encoded(
    group: list[_Decoded], tokenizer: Tokenizer, text_encoder: TextEncoder | None, actions: ActionSpec | None
) -> list[dict[str, bytes]]:
    """The fields of each sample in a shard."""
    samples = [decoded.sample for decoded in group]
    device = next(tokenizer.parameters()).device
    video = torch.from_numpy(np.stack([sample.video for sample in samples]))
    if tokenizer.causal:  # in chunks, as recordings may be long
        chunks = (to_float(chunk.to(device)) for chunk in video.split(_CHUNK, dim=1))
        ids = torch.cat(list(tokenizer.encode_stream(chunks)), dim=1)
    else:
        ids = tokenizer.encode(to_float(video.to(device)))
    arrays = [{"ids": each} for each in ids.cpu().numpy().astype(np.min_scalar_type(tokenizer.vocab_size - 1))]
    if text_encoder:
        arrays = [made | text for made, text in zip(arrays, _embedded(samples, text_encoder, device), strict=True)]
    if actions:
        arrays = [made | {"actions": compact(of.actions, actions)} for made, of in zip(arrays, samples, strict=True)]
    words = [_words(decoded.item, decoded.sample, tokenizer.config.fps, text_encoder is None) for decoded in group]
    return [{FIELD: save(made), "json": json.dumps(about).encode()} for made, about in zip(arrays, words, strict=True)]


def _embedded(
    samples: Sequence[Sample], text_encoder: TextEncoder, device: torch.device
) -> Iterator[dict[str, np.ndarray]]:
    """The arrays `text` of each sample, and `text_lengths` if its captions change."""
    captions = [[text for _, text in sample.timed_captions] or [sample.caption] for sample in samples]
    with autocast(device):
        text = text_encoder(text_encoder.tokenize(list(chain(*captions))).to(device))
    pairs = zip(text.embeddings, text.mask, strict=True)
    embeddings = iter([embeddings[mask].half().cpu().numpy() for embeddings, mask in pairs])
    for own in captions:
        pieces = list(islice(embeddings, len(own)))
        lengths = {"text_lengths": np.array(list(map(len, pieces)), np.int32)} if len(own) > 1 else {}
        yield {"text": np.concatenate(pieces)} | lengths


def _words(item: Any, sample: Sample, fps: float, all_captions: bool) -> dict[str, Any]:
    """Of captions of which one is drawn at each use all, unless only the embeddings of one are there."""
    words: dict[str, Any] = {"captions": [sample.caption] if sample.caption else []}
    if isinstance(item, EncodedSample):
        words["source"] = item.key
        if all_captions and not item.timed_captions:
            words |= {"captions": item.captions, "label": item.label}
    if sample.timed_captions:
        words["captions"] = [TimedCaption(frame / fps, text)._asdict() for frame, text in sample.timed_captions]
    if sample.continued:
        words["continued"] = True
    return words


# files


def read_progress(out: str, rank: int) -> Tokenized:
    """What process `rank` has in complete shards."""
    journal = join(out, f"{rank_prefix(rank)}.json")
    data, where = read_optional(journal), f"'{journal}'"
    return Tokenized() if data is None else from_dict(Tokenized, parse_json_object(data, where), where)


class _RankWriter:
    """What one process writes: shards, the names of skipped samples beside each, and its progress.

    Raises PhenakiError if the folder was started with other networks, settings or processes.
    """

    def __init__(self, out: str, rank: int, made_by: TokenSet) -> None:
        self._out, self._name, self._made_by = out, rank_prefix(rank), made_by
        _is_begun(out, made_by)
        self._journal, self.done = join(out, f"{self._name}.json"), read_progress(out, rank)
        self.writer = ShardWriter(out, self._name, first=self.done.shards)
        self._first, self._before = self.done.shards, self.done.written
        self._bad: list[str] = []  # since the last shard

    def write(self, fields: dict[str, bytes]) -> None:
        if not self.done.written and not _is_begun(self._out, self._made_by):
            make_folder(self._out)
            write_json(join(self._out, TOKENS), to_dict(self._made_by))
        self.writer.write(f"{self.done.taken:09d}", fields)
        self.done.written += 1

    def skip(self, sentence: str) -> None:
        self._bad.append(sentence)
        self.done.bad += 1

    def finish_full_shard(self) -> None:
        if self.done.written - self._before >= _SHARD_SAMPLES:
            self.finish_shard()

    def finish_shard(self) -> None:
        if not self.done.written:  # the folder may still be used with other settings
            return
        self.writer.finish_shard()
        if self._bad:
            with open_atomic(join(self._out, f"{self._name}-{self.done.shards:06d}.bad.txt")) as file:
                file.write("".join(f"{sentence}\n" for sentence in self._bad).encode())
        self.done.shards, self._before = self._first + len(self.writer.finished), self.done.written
        self._bad = []
        write_json(self._journal, to_dict(self.done))


def _is_begun(out: str, made_by: TokenSet) -> bool:
    """Whether tokens.json exists. Raises PhenakiError if it has other networks, settings or processes."""
    data = read_optional(join(out, TOKENS))
    if data is None:
        return False
    where = f"'{join(out, TOKENS)}'"
    begun = from_dict(TokenSet, parse_json_object(data, where), where)
    settings = from_dict(TokenizeConfig, begun.config, where).settings()
    begun = replace(begun, config=settings)  # an older version had fewer of them
    if begun != made_by:
        raise PhenakiError(
            f"'{out}' was started with another {_difference(begun, made_by)}: use the same to resume, or another folder"
        )
    return True


def _difference(begun: TokenSet, made_by: TokenSet) -> str:
    if begun.processes != made_by.processes:
        return "process count"
    if begun.config != made_by.config:
        return "source or setting"
    return "tokenizer, text encoder or template"
