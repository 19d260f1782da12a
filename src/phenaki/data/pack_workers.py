"""Cutting the sources into clips, in worker processes."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from phenaki.core.actions import ActionSpec
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.data.actions import read_table, to_npy
from phenaki.data.bucket import Remote, downloaded
from phenaki.data.captions import check_caption_starts, cut_captions
from phenaki.data.cuts import CutClip, Cutting, cut_clips
from phenaki.data.engines import Engine
from phenaki.data.pack_inputs import PackInputs, file_digest
from phenaki.data.pack_report import INTERLACED
from phenaki.data.sample import EncodedSample
from phenaki.data.storage import NotThere
from phenaki.media.frames import ENDING as FRAMES
from phenaki.media.reader import is_interlaced, probe, read_starts
from phenaki.media.view import TOLERANCE, visible_frames

_MAX_BYTES = 2**30  # of a file that is packed unchanged; readers accept no more
_UNIT_BYTES = 16 * 2**20  # of sources that are sent at once


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
        with downloaded(item) as local:
            made = _make_local(local, cutting, actions)
            if local is item:
                return made
            clips = (clip._replace(media=_bytes(clip.media)) for clip in made.clips)  # the file goes
            return made._replace(clips=tuple(clips))
    except NotThere as error:
        return MadeClips(refused=str(error))
    except BadSample as error:
        return MadeClips(refused=str(error))
    except OSError as error:
        return MadeClips(refused=f"it cannot be read: {error.strerror or error}")


def _make_local(item: EncodedSample, cutting: Cutting, actions: ActionSpec | None) -> MadeClips:
    if item.span is None:
        digest = file_digest(item.media)
        encoded = cutting.changes or item.suffix == FRAMES
        clips = cut_clips(item.media, item.suffix, cutting) if encoded else [_as_it_is(item)]
    else:
        digest = hashlib.sha256(f"{item.key} {item.span}".encode()).hexdigest()
        clips = cut_clips(item.media, item.suffix, cutting, item.span)
    note = f"it is {INTERLACED}" if is_interlaced(item.media, item.suffix) else ""
    return MadeClips(digest, _with_conditions(tuple(clips), item, actions), note=note)


def _bytes(media: bytes | Path) -> bytes:
    return media if isinstance(media, bytes) else media.read_bytes()


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


def make_clips(engine: Engine, sources: PackInputs, indices: Iterable[int], cutting: Cutting) -> Iterator[Made]:
    """The clips of the sources, in the order of `indices`; a few sources are processed ahead. The machines of a cluster
    reach the folders by the same paths."""
    units = _units((sources[number] for number in indices), engine.unit_size)
    results = engine.map(_make_unit, units, cutting, sources.actions, sources.roots, name="packing")
    with closing(results):
        for unit, made in results:
            yield from zip(unit, made, strict=True)


def _units(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """Up to `count` small sources, or a large one."""
    unit: list[Item] = []
    size = 0
    for item in map(_absolute, items):
        unit.append(item)
        with suppress(OSError):  # it is refused when it is read, or lies in a bucket
            size += os.path.getsize(item.media) if isinstance(item, EncodedSample) else 0
        if len(unit) == count or size >= _UNIT_BYTES:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def _absolute(item: Item) -> Item:
    """Its files by paths that hold in any working directory."""
    if isinstance(item, BadSample) or isinstance(item.media, Remote):
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
