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

RECORD = Path(__file__).parent.parent / "examples/atari/record.py"
VIEW = ClipView(frames=11, fps=8.0, size=(64, 64), random=False)


def test_recordings_of_atari_are_clips_that_move_with_captions(tmp_path: Path) -> None:
    pytest.importorskip("ale_py", reason="the games come with the package ale-py")
    subprocess.run([sys.executable, RECORD, tmp_path, "--clips", "1"], check=True)
    folder = Folder(tmp_path)
    assert len(folder) == 6
    captions = set()
    for number in range(len(folder)):
        item = folder[number]
        clip = read_clip(item.media, item.suffix, VIEW, np.random.default_rng(0))
        assert (np.diff(clip.astype(int), axis=0) != 0).any()
        captions.update(item.captions)
    assert len(captions) == 6
    assert "boxing: the white boxer moves up" in captions
    assert folder.unclaimed == []
