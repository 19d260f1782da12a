"""How a file was made is kept in the file, in every format that is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phenaki import __version__
from phenaki.core.errors import PhenakiError
from phenaki.media.metadata import read_metadata
from phenaki.media.reader import read_video
from phenaki.media.writer import Fragments, remux_mp4, write_image, write_video

MADE = {"prompts": ["ein rotes Quadrat – größer", 'a "b" \n c'], "seed": 2**60 + 1, "sampling": {"steps": 8, "x": None}}
CLIP = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.png", "frames/"])
@pytest.mark.parametrize("made", [MADE, {"events": [[i, "press", "left"] for i in range(20_000)]}], ids=["few", "many"])
def test_what_is_written_is_read(tmp_path: Path, name: str, made: dict) -> None:
    path = f"{tmp_path}/{name}"
    write_video(path, CLIP, 8, made)
    assert read_metadata(path) == {"phenaki": __version__} | made
    write_video(f"{tmp_path}/plain_{name}", CLIP, 8)
    assert read_metadata(f"{tmp_path}/plain_{name}") is None
    assert np.array_equal(read_video(path).frames, read_video(f"{tmp_path}/plain_{name}").frames)


def test_fragments_keep_it_and_it_may_change_at_the_end(tmp_path: Path) -> None:
    with open(tmp_path / "part.mp4", "wb") as file:
        for frames in (0, 3):
            Fragments(file, 8, frames, MADE).add(CLIP)
    assert read_metadata(tmp_path / "part.mp4") == {"phenaki": __version__} | MADE
    remux_mp4(tmp_path / "part.mp4", tmp_path / "a.mp4")
    assert read_metadata(tmp_path / "a.mp4") == {"phenaki": __version__} | MADE
    remux_mp4(tmp_path / "part.mp4", tmp_path / "a.mp4", {"events": [1]})
    assert read_metadata(tmp_path / "a.mp4") == {"phenaki": __version__, "events": [1]}


def test_comments_of_others_are_not_ours(tmp_path: Path) -> None:
    image = Image.fromarray(CLIP[0])
    for number, comment in enumerate((b"made by a camera", b'{"prompt": "a"}', b"[1]", b"\xff\xfe", b"")):
        image.save(tmp_path / f"{number}.gif", comment=comment)
        assert read_metadata(tmp_path / f"{number}.gif") is None
    write_image(tmp_path / "a.png", CLIP[0], MADE)
    assert read_metadata(tmp_path / "a.png")["seed"] == 2**60 + 1


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "a.png").write_text("no picture")
    for name, reason in (("a.mp4", "cannot be read"), ("a.png", "cannot be read"), ("b.mp4", "no file or folder")):
        with pytest.raises(PhenakiError, match=f"{name}.*{reason}|{reason}.*{name}"):
            read_metadata(tmp_path / name)
