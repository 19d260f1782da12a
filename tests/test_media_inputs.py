"""A video goes in in whatever people hold it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from phenaki.core.errors import PhenakiError
from phenaki.media.inputs import as_mask, as_video
from phenaki.media.writer import write_video

CLIP = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)  # T, H, W
VIDEO = torch.from_numpy(CLIP).movedim(-1, 0)[None].float() / 255
FLOAT = VIDEO[0].movedim(0, -1).numpy()


@pytest.mark.parametrize(
    "source",
    [
        CLIP,
        torch.from_numpy(CLIP),
        FLOAT,
        FLOAT.astype(np.float64),
        CLIP.transpose(0, 3, 1, 2),
        CLIP.transpose(3, 0, 1, 2),
        CLIP[None],
        CLIP.transpose(0, 3, 1, 2)[None],
        VIDEO,
        VIDEO[0],
        VIDEO.movedim(1, 2),
        [Image.fromarray(frame) for frame in CLIP],
        tuple(CLIP),
        CLIP[..., ::-1].copy()[..., ::-1],
        np.frombuffer(CLIP.tobytes(), np.uint8).reshape(CLIP.shape),
        list(CLIP.transpose(0, 3, 1, 2)),
        [CLIP],
        [[Image.fromarray(frame) for frame in CLIP]],
    ],
)
def test_every_layout_is_the_same_video(source: Any) -> None:
    assert torch.equal(as_video(source), VIDEO)


@pytest.mark.parametrize("source", [CLIP[0], CLIP[0].transpose(2, 0, 1), Image.fromarray(CLIP[0]), [CLIP[0]]])
def test_a_picture_is_a_video_of_one_frame(source: Any) -> None:
    assert torch.equal(as_video(source), VIDEO[:, :, :1])


def test_clips_of_a_list_are_a_batch() -> None:
    pictures = [Image.fromarray(frame) for frame in CLIP]
    assert torch.equal(as_video([CLIP, pictures, VIDEO[0]]), VIDEO.repeat(3, 1, 1, 1, 1))


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.webp", CLIP, 8)
    write_video(f"{tmp_path}/frames/", CLIP, 8)
    for path in (tmp_path / "clip.webp", str(tmp_path / "clip.webp"), tmp_path / "frames"):
        assert torch.equal(as_video(path), VIDEO)
    pictures = sorted((tmp_path / "frames").iterdir())
    assert torch.equal(as_video(pictures), VIDEO)


def test_files_and_pictures_are_fitted_and_arrays_are_not(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.webp", CLIP, 8)
    write_video(f"{tmp_path}/frames/", CLIP, 8)
    assert as_video(tmp_path / "clip.webp", (8, 8)).shape == (1, 3, 5, 8, 8)
    assert as_video(tmp_path / "clip.webp", (8, 8), fps=4).shape == (1, 3, 3, 8, 8)
    assert as_video(tmp_path / "frames", (8, 8), fps=4).shape == (1, 3, 3, 8, 8)
    assert as_video(Image.fromarray(CLIP[0]), (8, 8)).shape == (1, 3, 1, 8, 8)
    assert as_video(CLIP, (8, 8)).shape == VIDEO.shape
    center = as_video(Image.fromarray(CLIP[0]), (16, 16))
    assert torch.equal(center[0, :, 0], VIDEO[0, :, 0, :, 4:20])


def test_transparency_grey_and_palettes_become_rgb() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert not as_video(clear).any()
    for mode in ("L", "1", "P"):
        assert (as_video(Image.new("RGB", (8, 8), "white").convert(mode)) == 1).all()


def test_photos_are_turned_upright_once() -> None:
    photo, file = Image.fromarray(CLIP[0]), io.BytesIO()
    exif = photo.getexif()
    exif[274] = 6  # to be turned clockwise
    photo.save(file, "PNG", exif=exif)
    upright = torch.rot90(VIDEO[:, :, :1], -1, (3, 4))
    assert torch.equal(as_video(Image.open(file)), upright)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "a video of type int: pass a path"),
        ({}, "a video of type dict"),
        ([], "an empty list"),
        (CLIP.astype(np.int64), "type int64: pass uint8"),
        (CLIP > 3, "type bool: pass uint8"),
        (np.array(["a"]), "pass uint8"),
        (CLIP[..., 0], r"shape \(5, 16, 24\): pass \(H, W, 3\)"),
        (np.zeros((3, 3, 16, 24), np.uint8), r"may be \(T, 3, H, W\) or \(3, T, H, W\)"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        ([CLIP[0], CLIP[0, :8]], "frame 2 of the list has 24x8 pixels, the first 24x16"),
        ([CLIP, CLIP[:3]], "clip 2 .* 24x16 pixels and 3 frames, the first 24x16 and 5 frames"),
        ("nowhere.mp4", "no file or folder 'nowhere.mp4'"),
    ],
)
def test_other_things_are_refused_in_a_sentence(source: Any, message: str) -> None:
    with pytest.raises(PhenakiError, match=message):
        as_video(source)


WHITE = np.zeros((16, 24), bool)
WHITE[4:9, 7:] = True


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m[None],
        lambda m: m[..., None],
        lambda m: m.astype(np.uint8),
        lambda m: m.astype(np.uint8) * 255,
        lambda m: m.astype(np.float32),
        lambda m: torch.from_numpy(m)[None, None],
        lambda m: Image.fromarray(m),
        lambda m: Image.fromarray(m.astype(np.uint8) * 255),
        lambda m: [Image.fromarray(m)],
    ],
)
def test_masks_of_every_kind(change: Callable) -> None:
    assert torch.equal(as_mask(change(WHITE)), torch.from_numpy(WHITE)[None])


def test_masks_of_several_frames(tmp_path: Path) -> None:
    frames = np.stack([WHITE, ~WHITE])
    write_video(tmp_path / "mask.webp", frames[..., None].repeat(3, -1).astype(np.uint8) * 255, 8)
    for source in (frames, [Image.fromarray(mask) for mask in frames], tmp_path / "mask.webp"):
        assert torch.equal(as_mask(source), torch.from_numpy(frames))
    with pytest.raises(PhenakiError, match=r"a mask of shape \(2, 2, 16, 24\)"):
        as_mask(np.zeros((2, 2, 16, 24), bool))
