"""Encoding each clip of a training once: token shards, written before the first step, in place of videos."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import replace

from phenaki.core.components import fingerprint
from phenaki.core.config import bounded, configclass, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.progress import progress_bar
from phenaki.core.worlds import WORLDS
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.engines import LocalProcesses
from phenaki.data.opening import token_set
from phenaki.data.storage import join, make_folder, read_optional, write_json
from phenaki.data.tokenizing import TokenizeConfig, read_progress
from phenaki.data.tokenizing_units import count_units, tokenize_on
from phenaki.tokenizers import Tokenizer

_POLL = 2.0  # seconds between two looks at whether the other processes are done


@configclass
class IdCacheConfig:
    """Ids that are kept, so that the tokenizer encodes each clip once.

    folder: local, or at s3://; "" encodes clips at each use. All clips are encoded before the first step, and other
        runs with the same tokenizer, sources and settings find them there.
    passes: how often each sample is encoded, at other random starts, crops and, with data.flip, mirrorings; 1: the
        center. Of recordings a causal generator gets all frames instead, and random windows at each use.
    samples: how many of each source, 0 for all; required for procedural worlds.
    """

    folder: str = ""
    passes: int = bounded(1, at_least=1)
    samples: int = bounded(0, at_least=0)


def cache_ids(data: DataConfig, cache: IdCacheConfig, tokenizer: Tokenizer | None, recordings: bool) -> DataConfig:
    """The same data with token shards in `cache.folder` in place of the sources of videos, which are encoded if they
    are not there yet, by `data.workers` processes for each one of the run. An interrupted call resumes.

    `recordings`: whole ones are written where a source has them. Raises PhenakiError without a tokenizer, for worlds
    without `cache.samples`, and as `tokenize_on` does.
    """
    if tokenizer is None:
        raise PhenakiError("cache.folder is for clips, which a tokenizer encodes: name it (--tokenizer)")
    if data.flip and cache.passes == 1:
        raise PhenakiError("data.flip mirrors clips at random, but ids are written once: set cache.passes above 1")
    return replace(data, sources=tuple(_cached(source, data, cache, tokenizer, recordings) for source in data.sources))


def _cached(
    source: SourceConfig, data: DataConfig, cache: IdCacheConfig, tokenizer: Tokenizer, recordings: bool
) -> SourceConfig:
    if token_set(source.uri):
        return source
    if source.uri in WORLDS and not cache.samples:
        raise PhenakiError(f"'{source.uri}' is endless: set how many of its clips are encoded (cache.samples)")
    takes_all = recordings and source.uri not in WORLDS and not source.images
    config = TokenizeConfig(
        replace(source, weight=1.0, images=False),
        frames=0 if takes_all else 1 if source.images else max(data.lengths),
        passes=cache.passes,
        flip=data.flip,
        samples=cache.samples,
        seed=data.seed,
        max_bad_fraction=data.max_bad_fraction,
    )
    identity = json.dumps([fingerprint(tokenizer), config.settings()], sort_keys=True)
    name = re.sub(r"\W+", "-", source.uri)[-40:].strip("-")
    out = join(cache.folder, f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}")
    _encode(config, out, tokenizer, max(1, data.workers))
    return SourceConfig(out, source.weight, source.images, source.size, source.templates)


def _encode(config: TokenizeConfig, out: str, tokenizer: Tokenizer, workers: int) -> None:
    """This process's units of the source, then wait for those of the others."""
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    done = [join(out, f"complete-{other}-of-{count}.json") for other in range(count)]
    if all(read_optional(file) for file in done):
        return
    units = count_units(out) or count * workers
    own_units = range(rank, units, count)
    with progress_bar(visible=rank == 0, transient=True) as bar:
        task = bar.add_task(f"encoding {config.source.uri}", total=None)

        def advance(written: int) -> None:
            bar.update(task, completed=written)

        tokenize_on(
            LocalProcesses(workers), config, out, tokenizer, units=units, own_units=own_units, on_written=advance
        )
        make_folder(out)
        write_json(done[rank], to_dict(config))
        while not all(read_optional(file) for file in done):
            time.sleep(_POLL)
    if not any(read_progress(out, unit).written for unit in range(units)):
        raise PhenakiError(f"'{config.source.uri}' has no usable sample of {config.frames} frames")
