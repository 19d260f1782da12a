"""Clips laid out for viewing: contact sheets, side by side, mosaics, enlarged."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phenaki.core.errors import PhenakiError
from phenaki.media.convert import Frames

_WHITE, _BLACK = 255, 0
_FURTHER_GLYPHS = "‘’“”⁄"  # in Pillow's font, beyond ASCII


def contact_sheet(
    clips: Frames | Sequence[Frames],
    columns: int = 8,
    frames: int | None = None,
    labels: Sequence[str] | None = None,
    gap: int = 2,
) -> Frames:
    """The frames of one clip (T, H, W, 3), or of several stacked vertically, as one picture uint8 (H', W', 3).

    `columns`: frames per row. `frames`: how many frames of each clip are shown, evenly spaced from first to last.
    `labels`: printed above the clips, one each.
    """
    clips = [clips] if isinstance(clips, np.ndarray) else list(clips)
    if labels is not None and len(labels) != len(clips):
        raise PhenakiError(f"A contact sheet of {len(clips)} clips needs one label for each, not {len(labels)}.")
    blocks = []
    for clip in clips:
        if frames is not None and frames < len(clip):
            clip = clip[np.linspace(0, len(clip) - 1, frames).round().astype(int)]
        rows = [_beside(clip[start : start + columns], gap) for start in range(0, len(clip), columns)]
        blocks.append(_below(rows, gap))
    width = max(block.shape[1] for block in blocks)
    for index, label in enumerate(labels or []):
        blocks[index] = _below([_text(label, width), blocks[index]], gap)
    return _below(blocks, 4 * gap)


def side_by_side(clips: Sequence[Frames], gap: int = 2) -> Frames:
    """Clips of one length and height as one clip (T, H, W', 3), with `gap` white columns between them."""
    if len({clip.shape[:2] for clip in clips}) != 1:
        shapes = ", ".join(str(clip.shape) for clip in clips)
        raise PhenakiError(f"Clips side by side need one length and one height; these are {shapes or 'none'}.")
    return _beside(clips, gap)


def mosaic(clips: Sequence[Frames], columns: int = 4, gap: int = 2) -> Frames:
    """Clips of one length and size as one clip (T, H', W', 3), row by row; empty cells are white."""
    blank = np.full_like(clips[0], _WHITE)
    filled = [*clips, *[blank] * (-len(clips) % columns)] if len(clips) > columns else clips
    rows = [side_by_side(filled[start : start + columns], gap) for start in range(0, len(filled), columns)]
    turned = [row.swapaxes(1, 2) for row in rows]
    return _beside(turned, gap).swapaxes(1, 2)


def upscale(clip: Frames, factor: int) -> Frames:
    """Each pixel of (..., H, W, 3) as a square of `factor` x `factor`: small videos are hard to see."""
    return clip.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _beside(pictures: Sequence[Frames], gap: int) -> Frames:
    """Join (..., H, W, 3) along the width, white between them."""
    space = np.full((*pictures[0].shape[:-2], gap, 3), _WHITE, np.uint8)
    return np.concatenate([part for picture in pictures for part in (space, picture)][1:], axis=-2)


def _below(pictures: Sequence[Frames], gap: int) -> Frames:
    """Join (H, W, 3) along the height, white between them and to the right of the narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, gap), (0, width - picture.shape[1]), (0, 0)), constant_values=_WHITE)
        for picture in pictures
    ]
    joined = np.concatenate(padded)
    return joined[: len(joined) - gap]


def _text(text: str, width: int) -> Frames:
    """`text` in black on white, wrapped to `width` pixels."""
    font = ImageFont.load_default(size=12)
    per_line = max(1, int(width / font.getlength("n")))
    lines = "\n".join(textwrap.wrap(_drawable(text), per_line))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    bottom = math.ceil(draw.multiline_textbbox((0, 0), lines or " ", font=font)[3])
    image = Image.new("RGB", (width, bottom + 2), (_WHITE,) * 3)
    ImageDraw.Draw(image).multiline_text((0, 0), lines, font=font, fill=(_BLACK,) * 3)
    return np.asarray(image)


def _drawable(text: str) -> str:
    """Text for Pillow's default font, which covers ASCII: drops accents, replaces the rest with question marks."""
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)]
    return "".join(letter if letter.isascii() or letter in _FURTHER_GLYPHS else "?" for letter in letters)
