"""What packing made of its sources: a summary per split, and every source that is not in it, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from phenaki.core.errors import shortened
from phenaki.data.journal import SPLITS

REPORT = "report.json"
INTERLACED = "interlaced, which shows as combs where things move: deinterlace first (ffmpeg -vf bwdif)"

_MAX_LISTED = 20  # of each kind in the printed report; report.json has all


@dataclass
class SplitSummary:
    """The samples of a split, their total duration, and their shards."""

    samples: int = 0
    seconds: float = 0.0
    shards: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return (
            f"{self.samples:,} samples ({self.seconds / 60:,.1f} min, {self.bytes / 1e6:,.1f} MB, {self.shards} shards)"
        )


@dataclass
class PackReport:
    """refused: unusable sources, name -> reason. duplicates: name -> the source with the same bytes that was packed.
    unclaimed: names in the table without a file. notes: packed sources, name -> what is odd about them.
    other_endings: how many files have endings of neither media nor captions."""

    sources: int
    train: SplitSummary = field(default_factory=SplitSummary)
    validation: SplitSummary = field(default_factory=SplitSummary)
    without_caption: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    unclaimed: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    other_endings: dict[str, int] = field(default_factory=dict)

    def parts(self) -> dict[str, SplitSummary]:
        """The splits with samples, by name."""
        return {name: part for name in SPLITS if (part := getattr(self, name)).samples}

    def lines(self) -> list[str]:
        """To print."""
        went_in = self.sources - len(self.refused) - len(self.duplicates)
        return [
            f"{went_in:,} of {self.sources:,} sources packed",
            f"  train       {self.train}",
            f"  validation  {self.validation}",
            *([f"{self.without_caption:,} without a caption or label"] if self.without_caption else []),
            *_named("refused", [f"{name}: {reason}" for name, reason in self.refused.items()]),
            *_named("skipped", [f"{name}: same bytes as {other}" for name, other in self.duplicates.items()]),
            *_named("in the table without a file", self.unclaimed),
            *_named("packed, but odd", [f"{name}: {note}" for name, note in self.notes.items()]),
            *other_endings_lines(self.other_endings),
        ]


def other_endings_lines(endings: Mapping[str, int]) -> list[str]:
    """To print."""
    if not endings:
        return []
    named = [f"{ending} {count:,}" for ending, count in sorted(endings.items(), key=lambda item: (-item[1], item[0]))]
    return [f"{sum(endings.values()):,} files of other endings passed over: {shortened(named, 6)}"]


def nothing_usable(report: PackReport) -> str:
    first = [f"{name}: {reason}" for name, reason in report.refused.items()][:3]
    return f"None of the {report.sources:,} sources is usable. {'. '.join(first)}."


def _named(what: str, names: Sequence[str]) -> list[str]:
    more = [f"  and {len(names) - _MAX_LISTED:,} more, see {REPORT}"] if len(names) > _MAX_LISTED else []
    return [f"{len(names):,} {what}:", *(f"  {name}" for name in names[:_MAX_LISTED]), *more] if names else []
