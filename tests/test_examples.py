"""The scripts in examples/ do what their readers expect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from phenaki.data.folder import Folder
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView

RECORD = Path(__file__).parent.parent / "examples/crafter/record.py"
CELL = 16  # pixels


def test_recordings_of_crafter_are_data_sets_whose_actions_move_the_view(tmp_path: Path) -> None:
    pytest.importorskip("crafter", reason="the game comes with the package crafter")
    subprocess.run([sys.executable, RECORD, tmp_path, "--train", "1", "--new-starts", "1"], check=True)
    folders = [Folder(tmp_path / split, actions=True) for split in ("train", "new_starts")]
    clips = []
    for folder in folders:
        assert folder.actions is not None
        assert folder.actions.names == ("left", "right", "up", "down", "do")
        assert len(folder) == 1
        assert folder.unclaimed == []
        item = folder[0]
        assert all(": the player " in caption.text for caption in item.timed_captions)
        actions = np.load(tmp_path / folder.root.name / "clip_0000.actions.npy")
        view = ClipView(frames=len(actions), fps=8.0, size=(7 * CELL, 9 * CELL), random=False)
        clips.append(read_clip(item.media, item.suffix, view, np.random.default_rng(0)).astype(int))
        assert not actions[0].any()
        assert (actions.sum(1) <= 1).all()
        for column, axis, step in ((0, 1, -1), (1, 1, 1), (2, 0, -1), (3, 0, 1)):
            moved = [_moves(*clips[-1][i - 1 : i + 1], axis, step) for i in np.flatnonzero(actions[:, column])]
            assert np.mean(moved) > 0.5  # obstacles stop some steps
    assert not np.array_equal(clips[0][0], clips[1][0])


def _moves(before: np.ndarray, after: np.ndarray, axis: int, step: int) -> bool:
    """Whether `after` shows what `before` does one cell further along the axis, better than the same place."""
    error = [np.abs(np.roll(before, -cells * step * CELL, axis) - after).mean() for cells in (0, 1)]
    return bool(error[1] < error[0])
