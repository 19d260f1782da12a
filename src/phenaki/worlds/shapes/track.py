"""Tracking regions through time, and detecting anything outside them."""

from __future__ import annotations

import numpy as np

from phenaki.worlds.shapes.segment import FAINT, Regions, spread

JUMP = 6.0  # px from frame to frame beyond which it is not the same object
HALO, HALO_WIDTH = 0.25, 8  # what a lossy codec may leave around an object: fraction of its contrast, px
SPECKS = 6  # px of anything else that are tolerated in a frame


def follow(regions: Regions, frames: int) -> list[np.ndarray]:
    """Tracks through time: each an int array (T,) of region numbers, -1 where the object is not seen."""
    tracks: list[np.ndarray] = []
    latest: list[int] = []
    for t in range(frames):
        here = list(np.nonzero(regions.frame == t)[0])
        pairs = sorted(
            (float(np.hypot(*(regions.center[n] - regions.center[latest[k]]))), k, n)
            for k in range(len(tracks))
            for n in here
        )
        for distance, k, n in pairs:
            if distance <= JUMP and tracks[k][t] < 0 and n in here:
                tracks[k][t] = latest[k] = n
                here.remove(n)
        for n in here:
            track = np.full(frames, -1)
            track[t] = n
            tracks.append(track)
            latest.append(int(n))
    return tracks


def find_specks(regions: Regions, tracks: list[np.ndarray], blurred: np.ndarray) -> list[str]:
    """Faults for anything visible outside the objects and the positions where they vanish or appear."""
    limit = np.full(blurred.shape, FAINT)
    halo = np.where(spread(regions.mask, HALO_WIDTH), HALO * regions.contrast[:, None, None], 0.0)
    np.maximum.at(limit, regions.frame, halo)
    np.maximum.at(limit, regions.frame, np.where(spread(regions.mask, 3), np.inf, 0.0))
    for track in tracks:
        seen = np.nonzero(track >= 0)[0]
        for t in np.nonzero(track < 0)[0]:
            nearest = seen[np.abs(seen - t).argmin()]
            limit[t][spread(regions.mask[track[nearest]][None], 2)[0]] = np.inf
    amount = (blurred > limit).sum((1, 2))
    return [f"{amount[t]} px of something else in frame {t}" for t in np.nonzero(amount > SPECKS)[0]]
