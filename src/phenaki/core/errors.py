"""The errors that are meant for people, the one warning, and words for what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class PhenakiError(ValueError):
    """A sentence for the person who gave a value: the value, what is allowed, and the way out.

    The command line prints the sentence alone and ends with exit code 2.
    """


class BadSample(PhenakiError):
    """A sample that cannot be used: a sentence without its name, which whoever counts and names it puts in front.

    It never stops a training by itself; the sample is left out, counted and named (`data/mixing.py`).
    """


class PhenakiWarning(UserWarning):
    """A sentence for the person who gave a value that is used otherwise than may be thought."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'dim'?"` (with the leading space) for the nearest of `known`, or nothing if none is near."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""


def shortened(names: Sequence[str], count: int = 3) -> str:
    """Such as a, b, c and 4 more."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def counted(number: int, thing: str) -> str:
    """Such as 1 scene, 2 scenes."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
