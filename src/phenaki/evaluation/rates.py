"""Success rates with their confidence intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from phenaki.evaluation.world import Report

_Z = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson(hits: float, count: float) -> list[float]:
    """The 95 % Wilson score interval (1927) of a rate: within 0..1, and valid for rates near 0 and 1."""
    p, z2 = hits / count, _Z * _Z
    center = (p + z2 / (2 * count)) / (1 + z2 / count)
    half_width = _Z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    return [max(0.0, center - half_width), min(1.0, center + half_width)]


def success_rate(hits: int, count: int, independent: int | None = None) -> dict[str, Any]:
    """`hits` of `count` with the 95 % interval. `independent`: how many of them are independent, all by default."""
    n = independent or count
    return {"rate": hits / count, "interval": wilson(hits / count * n, n), "count": count}


def claim_rates(reports: Iterable[Report]) -> dict[str, Any]:
    """The rate of fulfilled claims of each kind, and of each claimed value: what fails."""
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        for finding in report.findings:
            found[finding.kind][finding.claimed].append(finding.fulfilled)
    rates: dict[str, Any] = {}
    for kind, by_value in found.items():
        rates[kind] = _rate([fulfilled for outcomes in by_value.values() for fulfilled in outcomes])
        if len(by_value) > 1:
            rates[kind]["claimed"] = {value: _rate(outcomes) for value, outcomes in sorted(by_value.items())}
    return rates


def _rate(outcomes: list[bool]) -> dict[str, Any]:
    return {"rate": sum(outcomes) / len(outcomes), "count": len(outcomes)}
