"""Hard cuts are found at their frame; motion, light and noise are none. Clips begin where the source does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import media_files
from phenaki.data.cuts import THUMBNAIL, Cutting, cut_clips, find_cuts
from phenaki.media.reader import read_frames


def texture(seed: int, width: int = THUMBNAIL) -> np.ndarray:
    """A picture of blobs in colours of its own, (THUMBNAIL, width, 3)."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (3, 3))
    coarse = rng.integers(0, 3, (8, width // 4))
    return palette[np.kron(coarse, np.ones((4, 4), int))].astype(np.uint8)


def scene(seed: int, frames: int = 20, speed: int = 0) -> list[np.ndarray]:
    """A camera that pans over a long texture by `speed` px a frame, with a little noise."""
    wide = texture(seed, THUMBNAIL + frames * speed + (-frames * speed) % 4)
    rng = np.random.default_rng(seed)
    views = [wide[:, t * speed : t * speed + THUMBNAIL].astype(int) for t in range(frames)]
    return [np.clip(view + rng.normal(0, 3, view.shape), 0, 255).astype(np.uint8) for view in views]


@pytest.mark.parametrize("speed", [0, 1, 8])
def test_cuts_are_found_at_their_frame(speed: int) -> None:
    assert find_cuts(scene(1, 20, speed) + scene(2, 12, speed) + scene(3, 9, speed)) == [20, 32]


@pytest.mark.parametrize("speed", [0, 1, 8, 16])
def test_fast_motion_is_no_cut(speed: int) -> None:
    for seed in range(10):
        assert find_cuts(scene(seed, 40, speed)) == []


def test_motion_that_begins_at_once_is_no_cut() -> None:
    for seed in range(10):
        moving = scene(seed, 20, 12)
        assert find_cuts([moving[0]] * 20 + moving + [moving[-1]] * 20) == []


def test_a_large_thing_that_rushes_through_is_no_cut() -> None:
    frames = scene(1, 30)
    for t in range(7):
        frames[12 + t][:, max(0, 8 * t - 16) : 8 * t] = (250, 240, 20)
    assert find_cuts(frames) == []


def test_flashes_and_fades_are_no_cuts() -> None:
    frames = scene(1, 30)
    frames[15] = np.full_like(frames[15], 255)
    assert find_cuts(frames) == []
    faded = [(frame * (1 - t / 30)).astype(np.uint8) for t, frame in enumerate(scene(2, 30))]
    assert find_cuts(faded) == []
    lamp = [np.full((THUMBNAIL, THUMBNAIL, 3), level, np.uint8) for level in [127] * 10 + [129] * 10]
    assert find_cuts(lamp) == []  # though all of it falls into another bin


def test_few_frames_have_no_cuts() -> None:
    assert find_cuts([]) == find_cuts(scene(1, 1)) == find_cuts(scene(1, 2)) == []


@pytest.mark.parametrize("first", [0.0, 3.0])
def test_clips_begin_with_the_first_frame_whatever_its_time_stamp(first: float, tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    source.write_bytes(media_files.video([first + stamp for stamp in media_files.even(25, 25)], form="matroska"))
    shown = []
    for clip in cut_clips(source, ".mkv", Cutting(fps=5, seconds=0.6)):
        frames = read_frames(clip.media, clip.suffix, (clip.info.height, clip.info.width))
        shown += [media_files.index_of(np.stack([render()]))[0] for _, render in frames if render]
    assert shown == [0, 5, 10, 15, 20]
