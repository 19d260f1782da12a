"""Errors and warnings whose message is for the user, and helpers that word them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class PhenakiError(ValueError):
    """An error that the user can fix. Its message names the value, what is allowed, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        """Lone surrogates, of values from JSON and of file names, as escapes: no terminal and no file takes them."""
        return super().__str__().encode(errors="backslashreplace").decode()


class BadSample(PhenakiError):
    """An unusable sample; its message lacks the sample's name, which the caller adds.

    It does not stop training: the sample is skipped, counted and named (`data/loader.py`).
    """


class PhenakiWarning(UserWarning):
    """A value is accepted, but its effect may not be the expected one."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'dim'?"`, with the leading space, for the closest of `known`; "" if none is close."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""


def shortened(names: Sequence[str], count: int = 3) -> str:
    """The first names, such as "a, b, c and 4 more"."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def pluralize(number: int, noun: str) -> str:
    """Such as "1 scene" or "2 scenes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
