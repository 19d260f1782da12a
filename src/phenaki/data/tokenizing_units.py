"""Token shards by a cluster: a unit is what one of several processes writes, and any worker takes it."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, closing, contextmanager, nullcontext, suppress
from typing import Any

from phenaki.conditioning import TextEncoder
from phenaki.core.config import from_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object
from phenaki.core.precision import best_device
from phenaki.core.worlds import WORLDS
from phenaki.data.engines import Engine
from phenaki.data.storage import check_outside, join, read_optional
from phenaki.data.tokenizing import TokenizeConfig, Tokenized, check_usable, read_progress, tokenize
from phenaki.data.tokens import TOKENS, TokenSet
from phenaki.tokenizers import Tokenizer

_INTERVAL = 10.0  # seconds between two looks at the progress
_UNITS_PER_WORKER = 4  # so that a slow one, or one that starts late, holds up the others less


def tokenize_on(
    engine: Engine,
    config: TokenizeConfig,
    out: str,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder | None = None,
    units: int = 0,
    *,
    own_units: Iterable[int] | None = None,
    on_written: Callable[[int], None] = lambda written: None,
    on_bad: Callable[[str], None] = lambda sentence: None,
) -> Tokenized:
    """`tokenize` in `units` parts, each on one GPU, or on one CPU where there are none. 0: as many as `out` was begun
    with, else four per GPU or CPU. The shards are those of as many processes under torchrun.

    A unit whose worker is lost resumes on another one after its last complete shard; so do all when this function is
    called again. `own_units`: of the units to write, if others write the rest. Networks are sent to the machines, which
    need the source and `out` under the same paths or URLs. Returns the sum of these units; `on_written` gets it from
    time to time. Raises PhenakiError as `tokenize` does; for some of the units the caller checks the sum of all.
    """
    check_outside(config.source.uri, out)
    gpus = engine.count("GPU")
    units = units or count_units(out) or _UNITS_PER_WORKER * max(1, gpus or engine.count("CPU"))
    networks = engine.put((tokenizer, text_encoder))
    root = os.path.abspath(config.source.uri) if os.path.isdir(config.source.uri) else ""
    arguments = (units, config, out, networks, dict(WORLDS), os.getcwd(), root)
    own_units = range(units) if own_units is None else own_units
    work = engine.map(_tokenize_unit, own_units, *arguments, gpus=min(gpus, 1), name="tokenizing")
    total, last = Tokenized(finished=True), ""
    with _watching(out, own_units, on_written), closing(work):
        for _, (done, bad) in work:
            for last in bad:
                on_bad(last)
            for field in ("written", "bad", "stills", "taken", "shards"):
                setattr(total, field, getattr(total, field) + getattr(done, field))
    on_written(total.written)
    if set(own_units) == set(range(units)):
        check_usable(config, total, last or f"named in {out}")
    return total


@contextmanager
def _watching(out: str, own_units: Iterable[int], on_written: Callable[[int], None]) -> Iterator[None]:
    """Say every few seconds how many samples are in complete shards."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_INTERVAL):
            with suppress(PhenakiError):  # the units raise it
                on_written(sum(read_progress(out, number).written for number in own_units))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def count_units(out: str) -> int:
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
    root: str,
) -> tuple[Tokenized, list[str]]:
    """In a worker: the unit, and what was bad last. worlds: those that the main process has registered. folder: in
    which that runs. root: the source, if it is a local folder."""
    if root and not os.path.isdir(root):
        raise PhenakiError(f"'{root}' is not on the machine '{socket.gethostname()}': mount it there by the same path")
    WORLDS.update(worlds)
    device = best_device()
    tokenizer, text_encoder = (network.eval().to(device) if network is not None else None for network in networks)
    bad: deque[str] = deque(maxlen=20)
    with chdir(folder) if os.path.isdir(folder) else nullcontext():
        done = tokenize(config, out, tokenizer, text_encoder, unit, units, on_bad=bad.append, is_unit=True)
    return done, list(bad)
