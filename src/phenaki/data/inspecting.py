"""A summary of the samples in a folder or in shards, with a contact sheet of random clips, and histograms."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phenaki.core.actions import ActionSpec
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.files import write_atomic, writing
from phenaki.core.progress import progress_bar
from phenaki.data.actions import read_table
from phenaki.data.captions import check_caption_starts, draw_caption
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.opening import check_has_clips, count_packed, open_source
from phenaki.data.pack_report import INTERLACED, other_endings_lines
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import read_shard
from phenaki.data.sources import FolderSource, ShardSource
from phenaki.data.storage import check_outside
from phenaki.media.convert import Frames
from phenaki.media.montage import contact_sheet
from phenaki.media.reader import is_interlaced, probe, read_clip
from phenaki.media.view import ClipView
from phenaki.media.writer import write_image

SHEET, HISTOGRAMS, SUMMARY = "clips.png", "histograms.png", "summary.json"

_CLIPS, _FRAMES, _SIDE = 12, 8, 96  # of the contact sheet, in px
_NAMED = 20  # bad samples and words in the printed summary; all are in summary.json
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SPACE_AND_PLOT = (480, 260)  # px, width and height of one histogram
_MARGIN, _BARS = 36, 24
_INK, _GREY, _BLUE = (40, 40, 40), (150, 150, 150), (66, 114, 174)


@dataclass
class DataSummary:
    """Statistics of the samples examined. `total`: how many there are, None if that is not known.

    Of each usable sample: `seconds`, `fps` and `frames` of videos, `sizes` ("640x360"), `file_types`; `caption_words`:
    words in each caption; `without_caption`: samples without a label either; `captions_change`: samples whose captions
    do. `actions`: of each action the mean of its absolute values over all frames, which of a button is the fraction in
    which it is pressed. `interlaced`: videos that show combs where things move. `other_endings`: how
    many files have endings of neither media nor captions. `bad`: the name and problem of each.
    """

    total: int | None
    looked_at: int = 0
    bad: list[str] = field(default_factory=list)
    stills: int = 0
    seconds: list[float] = field(default_factory=list)
    fps: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    short_sides: list[int] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    file_types: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    without_caption: int = 0
    caption_words: list[int] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    captions_change: int = 0
    actions: dict[str, float] = field(default_factory=dict)
    interlaced: int = 0
    other_endings: dict[str, int] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        return self.looked_at - len(self.bad)

    def add(self, item: EncodedSample, actions: ActionSpec | None = None) -> None:
        """Count a sample. Raises BadSample, counting nothing, if its media, captions or actions cannot be used."""
        info = probe(item.media, item.suffix)
        check_caption_starts(item.timed_captions, info.seconds)
        if actions and info.seconds:
            total, rows = sum(self.frames), np.abs(read_table(item, actions, info.frames))
            for name, values in zip(actions.names, rows.T, strict=True):
                before = self.actions.get(name, 0.0) * total
                self.actions[name] = (before + float(values.sum())) / (total + len(rows))
        self.sizes[f"{info.width}x{info.height}"] += 1
        self.short_sides.append(min(info.width, info.height))
        self.file_types[item.suffix] += 1
        self.interlaced += is_interlaced(item.media, item.suffix)
        if info.seconds:
            self.seconds.append(info.seconds)
            self.fps.append(info.fps)
            self.frames.append(info.frames)
        else:
            self.stills += 1
        self.without_caption += not item.has_words
        self.captions_change += len(item.timed_captions) > 1
        self.labels.update([item.label] if item.label else [])
        for caption in (*item.captions, *(timed.text for timed in item.timed_captions)):
            words = _WORD.findall(caption.lower())
            self.caption_words.append(len(words))
            self.words.update(words)

    def lines(self) -> list[str]:
        """To print."""
        of = f" of {self.total:,}" if self.total is not None else ""
        labels = [f"labels        {_most(self.labels)}"] if self.labels else []
        more = [f"  and {len(self.bad) - _NAMED:,} more, see {SUMMARY}"] if len(self.bad) > _NAMED else []
        return [
            f"{self.looked_at:,}{of} samples looked at: {len(self.seconds):,} videos, {self.stills:,} stills, "
            f"{len(self.bad):,} bad",
            f"seconds       {_spread(self.seconds)}, {sum(self.seconds) / 60:,.1f} min in all",
            f"frames        {_spread(self.frames)}",
            f"fps           {_spread(self.fps)}",
            f"sizes         {_most(self.sizes)}",
            f"files         {_most(self.file_types)}",
            f"captions      {len(self.caption_words):,}; {self.without_caption:,} samples without a caption or label"
            + (f", {self.captions_change:,} with captions that change" if self.captions_change else ""),
            f"caption words {_spread(self.caption_words)}",
            f"words         {_most(self.words, _NAMED)}",
            *([f"interlaced    {self.interlaced:,} videos, {INTERLACED}"] if self.interlaced else []),
            *other_endings_lines(self.other_endings),
            *labels,
            *([f"actions       {_means(self.actions)}"] if self.actions else []),
            *([f"{len(self.bad):,} bad:"] if self.bad else []),
            *(f"  {sentence}" for sentence in self.bad[:_NAMED]),
            *more,
        ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:,.4g} to {high:,.4g}, median {middle:,.4g}"


def _means(actions: dict[str, float]) -> str:
    return ", ".join(f"{name} {mean:.3g}" for name, mean in actions.items()) + " (mean of absolute values)"


def _most(counts: Counter[str], most: int = 6) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(most))
    return named + (f" and {len(counts) - most:,} others" if len(counts) > most else "")


def inspect_data(uri: str, out: Path, samples: int = 1000, seed: int = 0, progress: bool = True) -> DataSummary:
    """Examine random training samples of a source, and write summary.json and two images into the folder `out`.

    `uri`: a folder, or local or remote shards; of a packed dataset, the training split. `samples`: at most so many, the
    same number from each shard. Raises PhenakiError for a uri that does not exist or holds no usable sample, for token
    shards, and for procedural worlds.
    """
    if samples < 1:
        raise PhenakiError(f"samples {samples} must be 1 or more.")
    check_outside(uri, str(out))
    rng = np.random.default_rng(seed)
    source, total, items = _open(uri, samples, rng)
    actions = source.actions
    summary = DataSummary(total)
    if isinstance(source, FolderSource):
        summary.other_endings = dict(source.folder.other_endings)
    examples: list[EncodedSample] = []
    with progress_bar(visible=progress, transient=True) as bar:
        for item in bar.track(items, total=min(samples, total or samples), description="inspecting"):
            summary.looked_at += 1
            try:
                if isinstance(item, BadSample):
                    raise item
                summary.add(item, actions)
            except BadSample as error:
                summary.bad.append(str(error) if item is error else f"{item.name}: {error}")
                continue
            _keep_some(examples, item, summary.usable, rng)
    if not summary.usable:
        raise PhenakiError(f"'{uri}' holds no usable sample. {' '.join(summary.bad[:3])}")
    _write(out, summary, examples, rng)
    return summary


def _open(
    uri: str, samples: int, rng: np.random.Generator
) -> tuple[FolderSource | ShardSource, int | None, Iterator[EncodedSample | BadSample]]:
    """The source, the number of its samples, None if unknown, and random ones of them."""
    check_has_clips(uri)
    config = SourceConfig(uri)
    source = open_source(config, DataConfig((config,)), captions=True, actions=True)
    if isinstance(source, FolderSource):
        folder = source.folder
        picked = rng.choice(len(folder), min(samples, len(folder)), replace=False)
        return source, len(folder), (folder[int(i)] for i in np.sort(picked))
    if not isinstance(source, ShardSource):
        raise PhenakiError(f"'{uri}' is a procedural world, which has no files to inspect: name a folder or shards")
    shards = source.shards
    each = math.ceil(samples / len(shards))
    read = (item for i in rng.permutation(len(shards)) for item, _ in islice(read_shard(shards[i], actions=True), each))
    return source, count_packed(uri), islice(read, samples)


def _keep_some(kept: list[EncodedSample], item: EncodedSample, seen: int, rng: np.random.Generator) -> None:
    """Reservoir sampling of up to _CLIPS samples."""
    if len(kept) < _CLIPS:
        kept.append(item)
    elif (slot := rng.integers(seen)) < _CLIPS:
        kept[slot] = item


def _write(out: Path, summary: DataSummary, examples: list[EncodedSample], rng: np.random.Generator) -> None:
    clips, captions = [], []
    for item in examples:
        try:
            clips.append(_few_frames(item, rng))
        except BadSample as error:
            summary.bad.append(f"{item.name}: {error}")
            continue
        captions.append(f"{item.name}: {_caption(item, rng) or '(no caption)'}")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    if clips:
        write_image(out / SHEET, contact_sheet(clips, columns=_FRAMES, labels=captions))
    write_image(out / HISTOGRAMS, draw_histograms(summary))
    with write_atomic(out / SUMMARY, "w") as file:
        json.dump(vars(summary), file, ensure_ascii=False, indent=2)


def _caption(item: EncodedSample, rng: np.random.Generator) -> str:
    return " | ".join(text for _, text in item.timed_captions) or draw_caption(item.captions, item.label, (), rng)


def _few_frames(item: EncodedSample, rng: np.random.Generator) -> Frames:
    info = probe(item.media, item.suffix)
    count = min(_FRAMES, info.frames)
    view = ClipView(count, count / (info.seconds or 1.0), (_SIDE, _SIDE), random=False)
    return read_clip(item.media, item.suffix, view, rng)


# histograms


def draw_histograms(summary: DataSummary) -> Frames:
    """Lengths, rates, sizes and captions, as one image uint8 (H, W, 3)."""
    plots = {
        "length of videos, seconds": summary.seconds,
        "frames per second": summary.fps,
        "short side, pixels": summary.short_sides,
        "words in a caption": summary.caption_words,
    }
    width, height = _SPACE_AND_PLOT
    page = Image.new("RGB", (2 * width, 2 * height), "white")
    for number, (title, values) in enumerate(plots.items()):
        page.paste(_histogram(title, values), (number % 2 * width, number // 2 * height))
    return np.asarray(page)


def _histogram(title: str, values: Sequence[float]) -> Image.Image:
    width, height = _SPACE_AND_PLOT
    image = Image.new("RGB", (width, height), "white")
    draw: Any = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    draw.text((_MARGIN, 8), f"{title}  ({len(values):,})", _INK, font)
    left, right, top, bottom = _MARGIN, width - _MARGIN, _MARGIN, height - _MARGIN
    draw.line((left, bottom, right, bottom), _GREY)
    if not values:
        return image
    low, high = min(values), max(values)
    counts, _ = np.histogram(values, _BARS, (low, high) if high > low else (low - 0.5, low + 0.5))
    step = (right - left) / _BARS
    for bar, count in enumerate(counts):
        tip = bottom - (bottom - top) * count / counts.max()
        if count:
            draw.rectangle(
                (left + bar * step + 1, min(tip, bottom - 2), left + (bar + 1) * step - 1, bottom - 1), _BLUE
            )
    if high > low:
        draw.text((left, bottom + 6), f"{low:,.4g}", _INK, font, anchor="la")
        draw.text((right, bottom + 6), f"{high:,.4g}", _INK, font, anchor="ra")
    else:
        draw.text(((left + right) / 2, bottom + 6), f"{low:,.4g}", _INK, font, anchor="ma")
    draw.text((right, 8), f"highest bar {counts.max():,}", _GREY, font, anchor="ra")
    return image
