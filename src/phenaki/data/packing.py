"""Packing trees of videos and images into training shards: OUT/train/shard-*.tar and OUT/validation/shard-*.tar.

The samples of a source are a function of its bytes and the options, and their order follows from the names of the
sources, so the shards are the same for any number of processes and however often packing was interrupted. The order
mixes folders, since training shuffles only within a window of a shard. A journal records the outcome of each source and
the samples in finished shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from phenaki.core.config import to_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.files import UNFINISHED, to_json
from phenaki.core.progress import track
from phenaki.data.actions import DATASET
from phenaki.data.actions import FIELD as ACTIONS
from phenaki.data.captions import caption_fields
from phenaki.data.cuts import CutClip
from phenaki.data.engines import open_engine
from phenaki.data.journal import SPLITS, Journal, Outcome
from phenaki.data.pack_config import PackConfig
from phenaki.data.pack_inputs import PackInputs
from phenaki.data.pack_report import REPORT, PackReport, nothing_usable
from phenaki.data.pack_workers import MadeClips, make_clips
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import ShardWriter
from phenaki.data.storage import check_outside, is_remote, join, write_json


def pack(config: PackConfig, progress: bool = True) -> PackReport:
    """Write the sources as shards, with dataset.json and report.json beside them; see the top of this file.

    The same call resumes an interrupted one. Unusable files are skipped and listed. Raises PhenakiError if there is
    nothing to pack, no file is usable, or `out` cannot be written or holds other things.
    """
    for source in config.sources:
        check_outside(source, config.out)
    sources = PackInputs(config)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(config.out, config.options(), sources.fingerprint()))
        if not is_remote(config.out):
            _remove_leftovers(Path(config.out.removeprefix("file://")))
        packing = _Packing(config, sources, journal, stack)
        todo = journal.todo(sources.indices)
        processes = min(config.processes or os.cpu_count() or 1, len(sources))
        engine = stack.enter_context(open_engine(config.engine, config.address, processes))
        work = stack.enter_context(closing(make_clips(engine, sources, todo, config.cutting)))
        left = set(todo)
        for number in stack.enter_context(closing(track(sources.indices, "packing", progress))):
            if number in left:
                packing.take(number, *next(work))
            else:
                packing.pass_over(journal.outcomes[number])
        packing.finish()
    report = _report(sources, journal)
    if not report.parts():
        raise PhenakiError(nothing_usable(report))
    write_json(join(config.out, REPORT), asdict(report))
    parts = {name: asdict(part) for name, part in report.parts().items()}
    about = {"templates": config.templates, "options": config.options(), "report": REPORT}
    about |= {"actions": to_dict(sources.actions)} if sources.actions else {}
    write_json(join(config.out, DATASET), parts | about)
    return report


def _remove_leftovers(folder: Path) -> None:
    """Files that a killed process was writing."""
    for leftover in (*folder.glob(UNFINISHED), *folder.glob(f"*/{UNFINISHED}")):
        leftover.unlink()


class _Split:
    """Writes one of the splits, except for samples that are already in finished shards."""

    def __init__(self, config: PackConfig, name: str, journal: Journal) -> None:
        self.name, self.journal = name, journal
        self.first = len(journal.shards[name])
        self.already = sum(shard.samples for shard in journal.shards[name])
        self.writer = ShardWriter(
            join(config.out, name), max_bytes=config.shard_bytes, max_samples=config.shard_samples, first=self.first
        )

    def write(self, key: str, fields: Callable[[], dict[str, bytes]]) -> None:
        if self.already:
            self.already -= 1
            return
        self.writer.write(key, fields())
        self._note_finished()

    def finish(self) -> None:
        self.writer.finish_shard()
        self._note_finished()

    def _note_finished(self) -> None:
        noted = len(self.journal.shards[self.name]) - self.first
        for shard in self.writer.finished[noted:]:
            self.journal.add_shard(self.name, shard)


class _Packing:
    """Writes the clips of the sources, in their order."""

    def __init__(self, config: PackConfig, sources: PackInputs, journal: Journal, stack: ExitStack) -> None:
        self.config, self.sources, self.journal = config, sources, journal
        self.splits = {name: _Split(config, name, journal) for name in SPLITS}
        for split in self.splits.values():
            stack.enter_context(split.writer)

    def pass_over(self, outcome: Outcome) -> None:
        """Skip a source that was packed earlier."""
        if outcome.samples:
            self.splits[outcome.split].already -= outcome.samples

    def take(self, number: int, item: EncodedSample | BadSample, made: MadeClips) -> None:
        if made.refused:
            outcome = Outcome(refused=made.refused.removeprefix(f"{self.sources.key(number)}: "))
        else:
            outcome = self._write(number, item, made)
        self.journal.add_outcome(number, outcome)

    def _write(self, number: int, item: EncodedSample, made: MadeClips) -> Outcome:
        """Split by source, never by clip: clips of one source are too similar to evaluate on."""
        split = "validation" if int(made.digest[:13], 16) / 16**13 < self.config.validation else "train"
        for part, clip in enumerate(made.clips):
            key = f"{number:08d}_{part:05d}" if self.config.cutting.changes else f"{number:08d}"
            fields = partial(_fields, item, self.sources.name(number), made.digest, clip)
            self.splits[split].write(key, fields)
        seconds = sum(clip.info.seconds for clip in made.clips)
        return Outcome(made.digest, split, len(made.clips), seconds, item.has_words, note=made.note)

    def finish(self) -> None:
        for split in self.splits.values():
            split.finish()


def _fields(item: EncodedSample, name: str, digest: str, clip: CutClip) -> dict[str, bytes]:
    media = clip.media if isinstance(clip.media, bytes) else clip.media.read_bytes()
    metadata = clip.info._asdict() | {"source": name, "hash": digest, "start": clip.start, "label": item.label}
    fields = {clip.suffix[1:]: media}
    if clip.actions:
        fields[ACTIONS] = clip.actions
    first, captions = caption_fields(item.captions, clip.timed_captions)
    return fields | first | {"json": to_json(metadata | {"captions": captions})}


def _report(sources: PackInputs, journal: Journal) -> PackReport:
    report = PackReport(len(sources), unclaimed=sources.unclaimed(), other_endings=sources.other_endings())
    parts = {"train": report.train, "validation": report.validation}
    for name, shards in journal.shards.items():
        parts[name].shards = len(shards)
        parts[name].bytes = sum(shard.bytes for shard in shards)
    for number in range(len(sources)):
        best = sources.duplicates.get(number, number)
        outcome = journal.outcomes[best]
        if outcome.refused:
            report.refused[sources.name(number)] = outcome.refused
        elif number != best:
            report.duplicates[sources.name(number)] = sources.name(best)
        else:
            parts[outcome.split].samples += outcome.samples
            parts[outcome.split].seconds += outcome.seconds
            report.without_caption += not outcome.captioned
            if outcome.note:
                report.notes[sources.name(number)] = outcome.note
    report.refused = dict(sorted(report.refused.items()))
    report.duplicates = dict(sorted(report.duplicates.items()))
    return report
