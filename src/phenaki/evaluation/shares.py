"""Shares of what was counted, with the interval that so small a count leaves open."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from phenaki.worlds.shapes import Report

_Z = 1.959964  # of the normal distribution's middle 95 %


def wilson(hits: float, count: float) -> list[float]:
    """The 95 % interval of a share by Wilson's score (1927): it stays within 0..1 and holds for shares near 0 and 1."""
    p, z2 = hits / count, _Z * _Z
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def share(hits: int, count: int, independent: int | None = None) -> dict[str, Any]:
    """`hits` of `count`, with the 95 % interval. `independent`: how many of the count were drawn independently."""
    of = independent or count
    return {"share": hits / count, "interval": wilson(hits / count * of, of), "count": count}


def shares_of_claims(reports: Iterable[Report]) -> dict[str, Any]:
    """For each kind of claim the share that was fulfilled, in all and for each claimed value: what fails."""
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        for finding in report.findings:
            found[finding.kind][finding.claimed].append(finding.fulfilled)
    shares = {}
    for kind, values in found.items():
        every = [fulfilled for each in values.values() for fulfilled in each]
        shares[kind] = {"share": sum(every) / len(every), "count": len(every)}
        if len(values) > 1:
            shares[kind]["claimed"] = {
                value: {"share": sum(each) / len(each), "count": len(each)} for value, each in sorted(values.items())
            }
    return shares
