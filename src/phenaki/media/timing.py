"""Time stamps that a container has rounded, put right where the frame rate is constant."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# seconds: of Matroska's milliseconds, the first stamp and each other may be off by half of one, or cut off by a whole
# one; so may those of a file that counts more finely, if it was copied from there
_ERROR = 0.00101
_MOST_OF_FRAME = 0.25  # of a frame's duration: what is off by more was not rounded


class Timeline(NamedTuple):
    """When each of N frames starts, and the last one ends, float64 (N + 1,), in seconds as the file counts them.

    rate: frames per second, None if they are not constant. grid: then a rate of which only some frames are there, such
    as that of a recording that dropped some; None if there is none.
    """

    starts: NDArray[np.float64]
    rate: Fraction | None
    grid: Fraction | None = None

    @property
    def frames(self) -> int:
        return len(self.starts) - 1

    @property
    def seconds(self) -> float:
        return float(self.starts[-1] - self.starts[0])

    @property
    def mean_rate(self) -> float:
        return float(self.rate or self.frames / self.seconds)

    def corrected(self, start: float) -> float:
        """The exact start of a frame that the file says to start at `start`."""
        return start if self.rate is None else round_to_rate(start, float(self.starts[0]), self.rate)


def round_to_rate(start: float, first: float, rate: Fraction) -> float:
    """The exact start of a frame that the file says to start at `start`, in a video from `first` on of constant rate.

    What is further from that rate than rounding explains stays.
    """
    exact = first + float(round((start - first) * rate) / rate)
    return exact if abs(exact - start) < _ERROR else start


def make_timeline(starts: NDArray[np.float64], tick: float, stated_rates: Sequence[Fraction] = ()) -> Timeline:
    """The timeline of frames whose `starts` (N + 1,) are rounded to multiples of `tick` seconds.

    stated_rates: what the container says of the rate, which counts only if the time stamps agree.
    """
    rate = _constant_rate(starts[:-1], tick, stated_rates)
    if rate is None:
        return Timeline(starts, None, next((rate for rate in stated_rates if _fits_grid(starts[:-1], rate)), None))
    return Timeline(starts[0] + np.arange(len(starts)) / float(rate), rate)


def _fits_grid(starts: NDArray[np.float64], rate: Fraction) -> bool:
    """Whether each of the frames starts at another multiple of 1 / rate."""
    offsets = (starts - starts[0]) * float(rate)
    indices = offsets.round()
    error = min(_ERROR * float(rate), _MOST_OF_FRAME)
    return bool(np.abs(offsets - indices).max() < error and (np.diff(indices) >= 1).all())


def _constant_rate(starts: NDArray[np.float64], tick: float, stated_rates: Sequence[Fraction]) -> Fraction | None:
    """The rate at which frames start as these (N,) do, but for rounding; None if there is none."""
    if len(starts) < 3 or starts[-1] <= starts[0]:
        return None
    mean = (len(starts) - 1) / (starts[-1] - starts[0])
    common = [Fraction(round(mean)), Fraction(round(2 * mean), 2), Fraction(round(mean * 1.001) * 1000, 1001)]
    offsets, indices = starts - starts[0], np.arange(len(starts))

    def deviation(rate: Fraction) -> float:
        return float(np.abs(offsets - indices / float(rate)).max())

    likely = [rate for rate in stated_rates if rate.denominator in (1, 2, 1001)]
    by_fit = sorted(filter(None, [*likely, *common]), key=deviation)
    # the first one stated comes from the header; a few frames may fit several rates
    for rate in (*likely[:1], *by_fit, *stated_rates, Fraction(mean).limit_denominator(1001)):
        if rate and deviation(rate) < min(max(1.01 * tick, _ERROR), _MOST_OF_FRAME / float(rate)):
            return rate
    return None
