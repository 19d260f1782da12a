"""Lengths of clips: T = 1 + p k frames are t = 1 + k latent frames, the first of 1 frame, all others of p; and sizes.

Nothing here imports torch, so that the command line can refuse what does not fit at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from phenaki.core.errors import PhenakiError

MAX_SCENE_FRAMES = 10_000
MAX_ENLARGEMENT = 16  # of the pixels of a frame


def latent_frames(frames: int, period: int) -> int:
    """Latent frames t = 1 + (T - 1) / p of a clip of T `frames`.

    Raises PhenakiError, naming the nearest lengths, unless T is 1 + p k.
    """
    if frames < 1 or (frames - 1) % period:
        below = floor_frames(max(1, frames), period)
        raise PhenakiError(
            f"a clip of {frames} frames does not fit latent frames of {period}, which take 1 + {period}k frames: "
            f"the nearest are {below} and {below + period}"
        )
    return 1 + (frames - 1) // period


def check_scene_length(frames: int) -> None:
    """Raise PhenakiError for a scene that would take days."""
    if frames > MAX_SCENE_FRAMES:
        raise PhenakiError(f"{frames:,} frames: a scene has at most {MAX_SCENE_FRAMES:,}; give several scenes")


def check_frame_size(height: int, width: int, trained: Sequence[int]) -> None:
    """Raise PhenakiError for frames far larger than the (height, width) of training."""
    if height * width > MAX_ENLARGEMENT * trained[0] * trained[1]:
        raise PhenakiError(
            f"size {width}x{height}: frames have at most {MAX_ENLARGEMENT} times the pixels of those of "
            f"training, {trained[1]}x{trained[0]}"
        )


def frame_count(t: int, period: int) -> int:
    """Frames T of a clip of t latent frames: the inverse of `latent_frames`."""
    return 1 + (t - 1) * period


def latent_index(frame: int, period: int) -> int:
    """The latent frame of which frame number `frame` is part: 0 alone, then p by p."""
    return -(-frame // period)


def floor_frames(frames: int, period: int) -> int:
    """The longest valid clip length, 1 + p k, of at most `frames` (1 or more)."""
    return 1 + (frames - 1) // period * period


def patch_rows(height: int, width: int, patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches (height, width) in a frame.

    Raises PhenakiError, naming the nearest sides, for a size that does not fit.
    """
    ph, pw = patch
    if height < ph or width < pw or height % ph or width % pw:
        raise PhenakiError(
            f"frames of height {height} and width {width} do not fit this tokenizer, whose patches are {ph}x{pw}: "
            f"height must be a multiple of {ph}, width of {pw}; the nearest are {nearest_multiple(height, ph)} and "
            f"{nearest_multiple(width, pw)}"
        )
    return height // ph, width // pw


def nearest_multiple(side: int, patch: int) -> int:
    """The positive multiple of `patch` nearest to `side`."""
    return max(1, round(side / patch)) * patch
