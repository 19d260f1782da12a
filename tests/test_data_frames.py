"""A folder of numbered frames is a clip, in a data set too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phenaki.core.errors import BadSample
from phenaki.data.folder import Folder
from phenaki.data.packing import PackConfig, pack
from phenaki.data.sample import EncodedSample
from phenaki.data.shards import read_shard
from phenaki.media.frames import ENDING, is_clip
from phenaki.media.reader import probe, read_at_rate, read_clip, read_video
from phenaki.media.view import ClipView
from phenaki.media.writer import write_image, write_video

CLIP = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clips of frames, and two pictures that are none."""
    write_video(f"{tmp_path}/walk/", CLIP, 4, {"fps": 4})
    write_video(f"{tmp_path}/run/", CLIP[::-1], 8)
    (tmp_path / "walk.txt").write_text("a walk")
    for name in ("cat_1", "cat_2"):
        (tmp_path / "cats").mkdir(exist_ok=True)
        write_image(tmp_path / "cats" / f"{name}.png", CLIP[0])
    return tmp_path


def test_a_folder_of_frames_is_one_sample(root: Path) -> None:
    folder = Folder(root)
    items = [folder[index] for index in range(len(folder))]
    assert [item.key for item in items if isinstance(item, EncodedSample)] == [
        "cats/cat_1.png",
        "cats/cat_2.png",
        "run",
        "walk",
    ]
    assert items[3] == EncodedSample("walk", root / "walk", ENDING, ("a walk",))


def test_frames_are_found_by_their_time(root: Path) -> None:
    assert probe(root / "walk", ENDING)[:4] == (9, 4.0, 48, 32)  # the rate that the frames name
    assert probe(root / "run", ENDING).fps == 8
    rng = np.random.default_rng(0)
    clip = read_clip(root / "run", ENDING, ClipView(3, 4.0, (32, 48), random=False), rng)
    first = next(i for i in range(9) if np.array_equal(CLIP[::-1][i], clip[0]))
    assert np.array_equal(clip, CLIP[::-1][first : first + 5 : 2])
    frames, info = read_at_rate(root / "walk", (32, 48), 8.0)
    assert np.array_equal(frames, CLIP.repeat(2, 0)) and info.frames == 9
    with pytest.raises(BadSample, match="2.25 s of video"):
        read_clip(root / "walk", ENDING, ClipView(99, 8.0, (32, 48), random=False), rng)


def test_they_are_packed_as_videos(root: Path, tmp_path: Path) -> None:
    pack(PackConfig((root,), str(root.parent / f"{root.name}-out"), validation=0, processes=1), progress=False)
    shard = root.parent / f"{root.name}-out" / "train" / "shard-000000.tar"
    items = {item.metadata["source"]: item for item, _ in read_shard(str(shard)) if isinstance(item, EncodedSample)}
    assert items["walk"].captions == ("a walk",) and items["walk"].suffix == ".mp4"
    (root / "back.mp4").write_bytes(items["walk"].media)
    back = read_video(root / "back.mp4")
    assert back.frames.shape == CLIP.shape and back.fps == 4


def test_a_frame_that_cannot_be_read_is_said(root: Path) -> None:
    (root / "walk" / "frame_0003.png").write_bytes(b"none")
    with pytest.raises(BadSample, match="it cannot be read"):
        read_at_rate(root / "walk", (32, 48), None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["frame_1.png", "frame_2.png"], True),
        (["Frame0001.JPG", "Frame0002.JPG"], True),
        (["frame_1.png"], False),
        (["frame_1.png", "cat.png"], False),
        (["img_1.png", "img_2.png"], False),
        ([], False),
    ],
)
def test_which_folders_are_clips(names: list[str], expected: bool) -> None:
    assert is_clip(names) is expected
