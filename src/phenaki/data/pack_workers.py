"""Cutting the sources into clips, in worker processes of this machine or of a Ray cluster."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phenaki.core.actions import ActionSpec
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.actions import read_table, to_npy
from phenaki.data.captions import check_caption_starts, cut_captions
from phenaki.data.cuts import CutClip, Cutting, cut_clips
from phenaki.data.pack_inputs import PackInputs, file_digest
from phenaki.data.pack_report import INTERLACED
from phenaki.data.ray_cluster import RayCluster
from phenaki.data.sample import EncodedSample
from phenaki.media.frames import ENDING as FRAMES
from phenaki.media.reader import is_interlaced, probe, read_starts
from phenaki.media.view import TOLERANCE, visible_frames

_PREFETCH = 4  # sources per process that are worked on before their turn to be written
_MAX_BYTES = 2**30  # of a file that is packed unchanged; readers accept no more
_UNIT_SOURCES, _UNIT_BYTES = 16, 16 * 2**20  # of a unit of work on a cluster, which takes some milliseconds to send


class MadeClips(NamedTuple):
    """The clips of a source, the SHA-256 of its bytes, and what is odd about it, or why it is refused."""

    digest: str = ""
    clips: tuple[CutClip, ...] = ()
    refused: str = ""
    note: str = ""


Item = EncodedSample | BadSample
Made = tuple[Item, MadeClips]


def _make(item: Item, cutting: Cutting, actions: ActionSpec | None) -> MadeClips:
    try:
        if isinstance(item, BadSample):
            raise item
        if item.span is None:
            digest = file_digest(item.media)
            encoded = cutting.changes or item.suffix == FRAMES
            clips = cut_clips(item.media, item.suffix, cutting) if encoded else [_as_it_is(item)]
        else:
            digest = hashlib.sha256(f"{item.key} {item.span}".encode()).hexdigest()
            clips = cut_clips(item.media, item.suffix, cutting, item.span)
        note = f"it is {INTERLACED}" if is_interlaced(item.media, item.suffix) else ""
        return MadeClips(digest, _with_conditions(tuple(clips), item, actions), note=note)
    except BadSample as error:
        return MadeClips(refused=str(error))
    except OSError as error:
        return MadeClips(refused=f"it cannot be read: {error.strerror or error}")


def _with_conditions(
    clips: tuple[CutClip, ...], item: EncodedSample, actions: ActionSpec | None
) -> tuple[CutClip, ...]:
    """The clips with the actions and timed captions of their source, cut and resampled as they are."""
    if not (actions or item.timed_captions):
        return clips
    starts = read_starts(item.media, item.suffix)
    begin, offset = starts[0], 0.0
    if item.span is not None:
        offset = item.span[0]
        first, last = np.searchsorted(starts + TOLERANCE, begin + np.array(item.span))
        starts = starts[first : last + 1]
    check_caption_starts(item.timed_captions, starts[-1] - starts[0])
    table = read_table(item, actions, len(starts) - 1) if actions and len(starts) > 2 else None
    made = []
    for clip in clips:
        if table is not None:
            instants = begin + clip.start + np.arange(clip.info.frames) / clip.info.fps
            unchanged = clip.media == item.media
            rows = table if unchanged else actions.resample(table, visible_frames(starts[:-1], instants))
            clip = clip._replace(actions=to_npy(rows, actions))
        captions = cut_captions(item.timed_captions, clip.start - offset, clip.info.seconds or 1.0)
        made.append(clip._replace(timed_captions=captions))
    return tuple(made)


def _as_it_is(item: EncodedSample) -> CutClip:
    if (size := os.path.getsize(item.media)) > _MAX_BYTES:
        raise BadSample(f"it has {size / 2**30:.1f} GiB; files of more than 1 must be cut into clips (--seconds)")
    return CutClip(item.media, item.suffix, probe(item.media, item.suffix), 0.0)


def make_clips(sources: PackInputs, indices: Iterable[int], cutting: Cutting, processes: int) -> Iterator[Made]:
    """The clips of the sources, in the order of `indices`; a few sources are processed ahead."""
    items = (sources[number] for number in indices)
    if processes == 1:
        yield from ((item, _make(item, cutting, sources.actions)) for item in items)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks held by other threads
    pool = ProcessPoolExecutor(processes, spawn, initializer=_start_worker)

    def submit(item: Item) -> tuple[Item, Future[MadeClips]]:
        with _interrupts_held():  # this may start a process
            return item, pool.submit(_make, item, cutting, sources.actions)

    try:
        futures = deque(map(submit, islice(items, _PREFETCH * processes)))
        while futures:
            item, future = futures.popleft()
            yield item, future.result()
            futures.extend(map(submit, islice(items, 1)))
    except BrokenProcessPool as error:
        raise PhenakiError(
            f"A worker process died while packing '{getattr(item, 'key', item)}' or one of the {len(futures)} sources "
            "after it, perhaps out of memory. Run the same command again to resume."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def make_clips_on(cluster: RayCluster, sources: PackInputs, indices: Iterable[int], cutting: Cutting) -> Iterator[Made]:
    """`make_clips` on a cluster, whose machines reach the folders by the same paths."""
    units = _units(sources[number] for number in indices)
    for unit, made in cluster.map(_make_unit, units, cutting, sources.actions, sources.roots, name="packing"):
        yield from zip(unit, made, strict=True)


def _units(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Several small sources, or a large one."""
    unit: list[Item] = []
    size = 0
    for item in map(_absolute, items):
        unit.append(item)
        with suppress(OSError):  # it is refused when it is read
            size += os.path.getsize(item.media) if isinstance(item, EncodedSample) else 0
        if len(unit) == _UNIT_SOURCES or size >= _UNIT_BYTES:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def _absolute(item: Item) -> Item:
    """Its files by paths that hold in any working directory."""
    if isinstance(item, BadSample):
        return item
    actions = item.actions.absolute() if isinstance(item.actions, Path) else item.actions
    return item._replace(media=item.media.absolute(), actions=actions)


def _make_unit(
    unit: list[Item], cutting: Cutting, actions: ActionSpec | None, roots: Sequence[Path]
) -> list[MadeClips]:
    for root in roots:
        if not root.is_dir():  # else each file would be refused as missing
            raise PhenakiError(
                f"'{root}' is not on the machine '{socket.gethostname()}': mount it there by the same path"
            )
    return [_make(item, cutting, actions) for item in unit]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until after the block, and Ctrl-C in processes started in it until `_start_worker`.

    A mask alone is not enough: another thread would take the signal, and Python would raise in the main one.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number in handlers:
        signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if caught:
        handlers[caught[0]](caught[0], None)


def _start_worker() -> None:
    """Ctrl-C ends a worker silently, and a worker exits when its main process is killed."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a script's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    main = multiprocessing.parent_process()
    threading.Thread(target=lambda: (main.join(), os._exit(1)), daemon=True).start()
