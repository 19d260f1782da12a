"""Captions: text files beside the media, tables, and labels in templates."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.reading import open_regular, read_regular
from phenaki.data.table_rows import USUAL_COLUMNS, Columns, Row, read_rows
from phenaki.media.view import TOLERANCE

MOST_BYTES = 10_000  # of a caption in UTF-8; anything longer is some other text
MAX_JSON_BYTES = 2**20  # of the description of a sample


# drawing


def draw_caption(captions: Sequence[str], label: str, templates: Sequence[str], rng: np.random.Generator) -> str:
    """One of `captions`; without any, `label` in one of `templates`, or alone; else "".

    Raises PhenakiError for a template that `check_template` refuses.
    """
    if captions:
        return captions[rng.integers(len(captions))]
    if not label or not templates:
        return label
    template = templates[rng.integers(len(templates))]
    check_template(template)
    return template.format(label=label)


@cache
def check_template(template: str) -> None:
    """Raise PhenakiError unless `template` has the field {label} and no other, as "a video of {label}" does."""
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise PhenakiError(f"The caption template '{template}' cannot be read: {error}.") from error
    if not fields:
        raise PhenakiError(f"The caption template '{template}' has no {{label}}: write it as 'a video of {{label}}'.")
    for name, form, conversion in fields:
        if name != "label" or form or conversion:
            named = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise PhenakiError(f"The caption template '{template}' has the field {{{named}}}; there is only {{label}}.")


# captions that change


class TimedCaption(NamedTuple):
    """A caption, and the second of the recording at which it begins; it holds until the next one."""

    start: float
    text: str


def clean_timed_captions(captions: Any) -> tuple[TimedCaption, ...]:
    """The captions of a JSON list [{"start": 0, "text": ...}, ...], their whitespace normalized.

    Raises BadSample unless they begin at rising seconds, the first at 0, and as `clean_captions` does.
    """
    timed = []
    for caption in captions if isinstance(captions, list) else [None]:
        start, text = (caption.get("start"), caption.get("text")) if isinstance(caption, dict) else (None, None)
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not isinstance(text, str):
            raise BadSample('its captions that change need the form [{"start": seconds, "text": "..."}, ...]')
        texts = clean_captions([text])
        if not texts:
            raise BadSample(f"its caption from {start:g} s on has no text")
        if not timed and start != 0:
            raise BadSample(f"its first caption begins at {start:g} s, not at 0")
        if timed and not timed[-1].start < start < math.inf:  # refuses NaN too
            raise BadSample(f"its captions begin at {timed[-1].start:g} and then at {start:g} s: the seconds must rise")
        timed.append(TimedCaption(float(start), texts[0]))
    return tuple(timed)


def check_caption_starts(captions: Sequence[TimedCaption], seconds: float) -> None:
    """Raise BadSample if a caption begins after the end of the recording."""
    if captions and captions[-1].start and captions[-1].start >= seconds:
        raise BadSample(f"a caption begins at {captions[-1].start:g} s, but the video ends at {seconds:.2f} s")


def caption_frames(captions: Sequence[TimedCaption], instants: NDArray[np.float64]) -> dict[int, int]:
    """Which captions a clip has: the frame at which each begins, and its index; the first at frame 0.

    instants: of its frames, ascending seconds of the recording. A caption begins with the first frame that is not
    before it.
    """
    frames = np.searchsorted(instants + TOLERANCE, [caption.start for caption in captions]).tolist()
    return {frame: index for index, frame in enumerate(frames) if frame < len(instants)}


def clip_captions(
    captions: Sequence[TimedCaption], instants: NDArray[np.float64]
) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The first caption of a clip, and (frame, caption) of all if there is more than one; see `caption_frames`."""
    timed = tuple((frame, captions[index].text) for frame, index in caption_frames(captions, instants).items())
    return timed[0][1], timed if len(timed) > 1 else ()


def cut_captions(captions: Sequence[TimedCaption], start: float, seconds: float) -> tuple[TimedCaption, ...]:
    """The captions of a piece of `seconds` that begins at second `start`, in seconds of the piece."""
    shifted = [TimedCaption(max(0.0, round(caption.start - start, 6)), caption.text) for caption in captions]
    return tuple(
        caption
        for caption, following in pairwise([*shifted, None])
        if caption.start < seconds and (following is None or following.start > caption.start)
    )


def caption_fields(
    captions: Sequence[str], timed: Sequence[TimedCaption]
) -> tuple[dict[str, bytes], list[str] | list[dict[str, Any]]]:
    """How a shard stores the captions of a sample: its `txt`, if there is one, and the `captions` in its `json`."""
    if len(timed) > 1:
        return {}, [caption._asdict() for caption in timed]
    first, *more = [caption.text for caption in timed] or captions or [""]
    return {"txt": first.encode()} if first else {}, more


# text files


def read_timed_captions(path: Path) -> tuple[TimedCaption, ...]:
    """The captions in a file NAME.captions.json; () if there is no file. Raises BadSample for what cannot be used."""
    try:
        captions = json.loads(read_regular(path, MAX_JSON_BYTES))
    except (FileNotFoundError, IsADirectoryError):
        return ()
    except OSError as error:
        raise BadSample(f"its caption file '{path.name}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadSample(f"its caption file '{path.name}' is not valid JSON: {error}") from error
    return clean_timed_captions(captions)


def read_caption_file(path: Path) -> tuple[str, ...]:
    """The caption in a text file, its whitespace normalized; () if there is no file or no text in it.

    Raises BadSample if it is not UTF-8, too long, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        return ()
    except OSError as error:
        raise BadSample(f"its caption file '{path.name}' cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise BadSample(f"its caption file '{path.name}' has more than {MOST_BYTES:,} bytes")
    try:
        return clean_captions([data.decode("utf-8-sig")])
    except UnicodeDecodeError as error:
        raise BadSample(f"its caption file '{path.name}' is not UTF-8 ({error.reason} at {error.start})") from error


def clean_captions(captions: Iterable[str]) -> tuple[str, ...]:
    """The captions with normalized whitespace, without empty ones.

    Raises BadSample for a caption that is too long, and for lone surrogates, which JSON can hold.
    """
    cleaned = tuple(clean for caption in captions if (clean := " ".join(caption.split())))
    for caption in cleaned:
        try:
            size = len(caption.encode())
        except UnicodeEncodeError as error:
            raise BadSample(f"a caption is no Unicode text ({error.reason} at {error.start})") from error
        if size > MOST_BYTES:
            raise BadSample(f"a caption has {size:,} bytes; at most {MOST_BYTES:,} are taken")
    return cleaned


# tables


class Words(NamedTuple):
    """The captions and label of a file in a table; a caption that changes is the objects of `clean_timed_captions`."""

    captions: tuple[Any, ...]
    label: str

    @property
    def timed(self) -> bool:
        """Whether the captions change."""
        return any(not isinstance(caption, str) for caption in self.captions)


class CaptionTable:
    """Captions and labels of files, from a CSV, TSV, JSON-lines or Parquet file.

    Several rows of one file, or a column of lists, are several captions; names are equal in either Unicode form (NFC,
    NFD); a list of {"start": seconds, "text": ...} is
    captions that change. Raises PhenakiError for a table that is missing, unreadable or not UTF-8, and for a missing
    column.
    """

    def __init__(self, path: str | Path, columns: Columns = USUAL_COLUMNS, rows: Iterable[Row] | None = None) -> None:
        """`rows`: in place of those in the table, whose path then is a name only."""
        self.path = Path(path)
        self._rows: dict[str, Words] = {}
        self._owners: dict[str, str] = {}
        for name, captions, label in read_rows(self.path, columns) if rows is None else rows:
            name = normalize("NFC", posixpath.normpath(name.strip())) if name.strip() else ""
            old = self._rows.get(name, Words((), ""))
            self._rows[name] = Words(old.captions + captions, old.label or label)

    def claim(self, folder: Path, relative: str) -> Words | None:
        """The row of the file `relative` of `folder`, which the table may name without its folder and suffix.

        Raises PhenakiError if one row matches two files.
        """
        plain = posixpath.splitext(relative)[0]
        absolute = posixpath.join(folder.absolute().as_posix(), relative)
        names = (relative, plain, absolute, posixpath.basename(relative), posixpath.basename(plain))
        row = next((name for name in map(partial(normalize, "NFC"), names) if name in self._rows), None)
        if row is None:
            return None
        owner = self._owners.setdefault(row, absolute)
        if owner != absolute:
            raise PhenakiError(
                f"'{row}' in '{self.path}' matches two files, '{owner}' and '{absolute}': write full paths."
            )
        return self._rows[row]

    def names(self) -> list[str]:
        """As the table has them, normalized."""
        return list(self._rows)

    def claim_name(self, name: str) -> Words:
        """The row of one of `names`."""
        self._owners[name] = name
        return self._rows[name]

    def unclaimed(self) -> list[str]:
        """Names in the table that no file has claimed."""
        return [name for name in self._rows if name not in self._owners]

    def check_claimed(self) -> None:
        """Raise PhenakiError if no file has claimed any row."""
        if not self._owners:
            raise PhenakiError(
                f"The table '{self.path}' names none of the files there are; it names "
                f"{', '.join(map(repr, list(self._rows)[:3])) or 'none at all'}. "
                "Write their paths as they are in the folder."
            )
