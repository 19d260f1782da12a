"""Scenes, and the decodings that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phenaki.conditioning.base import Text
from phenaki.core.errors import PhenakiError
from phenaki.core.grid import floor_frames
from phenaki.generators import Generator
from phenaki.sampling.config import RolloutConfig, SamplingConfig

Prompt = str | tuple[str, ...] | Text
"""One prompt for all samples, one for each, or their embeddings (1 or B, L, D)."""


@dataclass(frozen=True)
class Scene:
    """A prompt and the number of new frames under it.

    The first scene of a video has 1 + p k frames, the others p k. `prime_frames`: how many of the last frames each of
    its windows is conditioned on, at most (the paper's K); None: that of the model.
    """

    prompt: Prompt
    frames: int
    prime_frames: int | None = None


@dataclass(frozen=True)
class Window:
    """One decoding: `known` frames from before, `new` frames under `prompt`."""

    prompt: Prompt
    known: int
    new: int


def plan_windows(
    scenes: Sequence[Scene], frames: int | None, period: int, config: RolloutConfig, primed: bool = False
) -> list[Window]:
    """The decodings that the scenes take.

    Args:
        frames: the longest clip (known and new frames) that the generator writes, 1 + period * k; None: it is causal,
            and writes latent frame by latent frame (`longest_clip`).
        period: frames of one latent frame (the paper's 2).
        config: `prime_frames` is rounded down to 1 + period * k.
        primed: whether the first scene, too, continues given frames.

    Raises PhenakiError, naming the nearest lengths, for frames that do not fit, and for more than one frame of a
    generator that writes images.
    """
    if frames == 1 and (primed or [scene.frames for scene in scenes] != [1]):
        raise PhenakiError("this generator was trained on single images: give one prompt and 1 frame")
    windows: list[Window] = []
    for scene in scenes:
        prime_frames = config.prime_frames if scene.prime_frames is None else scene.prime_frames
        known = 0 if frames is None else floor_frames(min(prime_frames, frames - period), period)
        first = not windows and not primed
        remaining = scene.frames - first
        if remaining < 0 or remaining % period or (not first and not remaining):
            _raise_length(scene, first, remaining, period)
        if first:
            alone = frames is None or config.first_frame_alone
            windows.append(Window(scene.prompt, 0, 1 if alone else min(scene.frames, frames)))
            remaining = scene.frames - windows[0].new
        while remaining:
            new = period if frames is None else min(remaining, frames - known)
            windows.append(Window(scene.prompt, known, new))
            remaining -= new
    return windows


def longest_clip(generator: Generator) -> int | None:
    """Frames that a generator writes at a time; None: it is causal, and writes latent frames without end."""
    return None if generator.has_cache else generator.config.frames


def _raise_length(scene: Scene, first: bool, remaining: int, period: int) -> None:
    below = max(remaining // period * period, 0 if first else period) + first
    prompt = "a scene" if isinstance(scene.prompt, Text) else repr(scene.prompt)
    raise PhenakiError(
        f"{scene.frames} frames for {prompt}: {'a video' if first else 'a scene that continues'} has "
        f"{f'1 + {period}k' if first else f'{period}k'} frames; the nearest are {below} and {below + period}"
    )


def window_sampling(window: Window, sampling: SamplingConfig) -> SamplingConfig:
    """The settings of a window's decoding: those of a first frame for an image."""
    return sampling if window.known or window.new > 1 else sampling.of_first_frame()


def count_steps(windows: Sequence[Window], sampling: SamplingConfig) -> int:
    """Decoding steps of all windows."""
    return sum(window_sampling(window, sampling).decoding.steps for window in windows)
