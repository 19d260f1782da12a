"""Token shards by a cluster: a unit is what one of several processes writes, and any worker takes it."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import chdir, nullcontext
from typing import Any

from phenaki.conditioning import TextEncoder
from phenaki.core.config import from_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object
from phenaki.core.precision import best_device
from phenaki.core.worlds import WORLDS
from phenaki.data.ray_cluster import RayCluster
from phenaki.data.storage import check_outside, join, read_optional
from phenaki.data.tokenizing import TokenizeConfig, Tokenized, check_usable, tokenize
from phenaki.data.tokens import TOKENS, TokenSet
from phenaki.tokenizers import Tokenizer

_UNITS_PER_WORKER = 4  # so that a slow one, or one that starts late, holds up the others less


def tokenize_on(
    cluster: RayCluster,
    config: TokenizeConfig,
    out: str,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder | None = None,
    units: int = 0,
    on_written: Callable[[int], None] = lambda written: None,
    on_bad: Callable[[str], None] = lambda sentence: None,
) -> Tokenized:
    """`tokenize` in `units` parts, each on one GPU, or on one CPU where there are none. 0: as many as `out` was begun
    with, else four per GPU or CPU. The shards are those of as many processes under torchrun.

    A unit whose worker is lost resumes on another one after its last complete shard; so do all when this function is
    called again. Networks are sent to the machines, which need the source and `out` under the same paths or URLs.
    Returns the sum of the units; raises PhenakiError as `tokenize` does.
    """
    check_outside(config.source.uri, out)
    gpus = cluster.count("GPU")
    units = units or _begun(out) or _UNITS_PER_WORKER * max(1, gpus or cluster.count("CPU"))
    networks = cluster.put((tokenizer, text_encoder))
    arguments = (units, config, out, networks, dict(WORLDS), os.getcwd())
    work = cluster.map(_tokenize_unit, range(units), *arguments, gpus=min(gpus, 1), name="tokenizing")
    total, last = Tokenized(finished=True), ""
    for _, (done, bad) in work:
        for last in bad:
            on_bad(last)
        for field in ("written", "bad", "stills", "taken", "shards"):
            setattr(total, field, getattr(total, field) + getattr(done, field))
        on_written(total.written)
    check_usable(config, total, last or f"named in {out}")
    return total


def _begun(out: str) -> int:
    """The number of processes or units by which `out` was begun; 0 if it was not."""
    data, where = read_optional(join(out, TOKENS)), f"'{join(out, TOKENS)}'"
    return from_dict(TokenSet, parse_json_object(data, where), where).processes if data is not None else 0


def _tokenize_unit(
    unit: int,
    units: int,
    config: TokenizeConfig,
    out: str,
    networks: tuple[Tokenizer, TextEncoder | None],
    worlds: dict[str, Any],
    folder: str,
) -> tuple[Tokenized, list[str]]:
    """In a worker: the unit, and what was bad last. worlds, folder: those of the main process, for relative paths."""
    WORLDS.update(worlds)
    device = best_device()
    tokenizer, text_encoder = (network.to(device) if network is not None else None for network in networks)
    bad: deque[str] = deque(maxlen=20)
    try:
        with chdir(folder) if os.path.isdir(folder) else nullcontext():
            done = tokenize(config, out, tokenizer, text_encoder, unit, units, on_bad=bad.append, is_unit=True)
    except PhenakiError as error:
        raise PhenakiError(f"machine '{socket.gethostname()}', unit {unit}: {error}") from error
    return done, list(bad)
