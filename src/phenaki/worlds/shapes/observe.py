"""What is visible in a video of the world of shapes, from its pixels alone, without any claim, in every frame.

`observe` fits the background of each frame and segments the regions that stand out from it (segment), follows them
through time (track), compares each outline with the six shapes (outline), and reads colour, size and action off the
track (describe). Lengths are in px of a frame whose smaller side is 64: other videos are resized to it first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phenaki.worlds.shapes.describe import ObservedObject, describe
from phenaki.worlds.shapes.segment import background_name, find_regions, fit_background, soften, to_frames
from phenaki.worlds.shapes.track import find_specks, follow


@dataclass(frozen=True)
class Observation:
    """What is visible in a video. `faults`: anything besides objects and a steady background."""

    objects: tuple[ObservedObject, ...]
    background: str | None
    faults: tuple[str, ...]


def observe(video: np.ndarray) -> Observation:
    """Observe a video, uint8 or float in 0..1, (T, H, W, 3)."""
    frames = to_frames(video)
    background = fit_background(frames)
    blurred = np.linalg.norm(soften(frames - background), axis=-1)
    regions = find_regions(frames, background, blurred)
    tracks = follow(regions, len(frames))
    faults = find_specks(regions, tracks, blurred)
    names = [background_name(b) for b in background]
    if len(set(names)) > 1:
        faults.append(f"background of unsteady colour: {', '.join(sorted({str(n) for n in names}))}")
    objects = tuple(describe(regions, track) for track in tracks)
    return Observation(objects, names[0] if len(set(names)) == 1 else None, tuple(faults))
