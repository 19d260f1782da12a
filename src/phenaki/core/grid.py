"""The arithmetic of 1 + p k frames: the first frame is a time step of its own, then every p frames are one."""

from __future__ import annotations

from phenaki.core.errors import PhenakiError


def time_steps(frames: int, period: int) -> int:
    """Time steps t = 1 + (T - 1) / p of a clip of T `frames`.

    Raises PhenakiError, naming the nearest lengths, unless T is 1 + p k.
    """
    if frames < 1 or (frames - 1) % period:
        below = fitting(max(1, frames), period)
        raise PhenakiError(
            f"a clip of {frames} frames does not fit time steps of {period}, which take 1 + {period}k frames: "
            f"the nearest are {below} and {below + period}"
        )
    return 1 + (frames - 1) // period


def frame_count(t: int, period: int) -> int:
    """Frames T of a clip of t time steps: the inverse of `time_steps`."""
    return 1 + (t - 1) * period


def nearest(side: int, patch: int) -> int:
    """The multiple of `patch`, of one or more, that is nearest to `side`."""
    return max(1, round(side / patch)) * patch


def fitting(frames: int, period: int) -> int:
    """The longest 1 + period * k that is at most `frames`, of 1 or more."""
    return 1 + (frames - 1) // period * period
