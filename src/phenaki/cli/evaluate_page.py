"""A report of an evaluation as one HTML page, with pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from phenaki.core.files import write_atomic
from phenaki.media.convert import Frames
from phenaki.media.montage import contact_sheet, mosaic, side_by_side, upscale
from phenaki.media.writer import write_image, write_video

_PAIRS, _COLUMNS, _HEIGHT = 6, 11, 128


def write_pairs(
    folder: Path, captions: Sequence[str], real: Sequence[Frames], made: Sequence[Frames], fps: float
) -> list[Path]:
    """Write the first real clips uint8 (T, H, W, 3), each above the one generated from its caption, as a picture and as
    a video. Returns both files."""
    rows = [clip for pair in zip(real[:_PAIRS], made[:_PAIRS], strict=True) for clip in pair]
    labels = [label for caption in captions[:_PAIRS] for label in (f"real: {caption}", "generated")]
    picture, video = folder / "generation.png", folder / "generation.mp4"
    factor = max(1, _HEIGHT // rows[0].shape[1])
    enlarged = [upscale(row, max(1, factor // 2)) for row in rows]
    write_image(picture, contact_sheet(enlarged, columns=_COLUMNS, frames=_COLUMNS, labels=labels))
    pairs = [side_by_side(list(pair)) for pair in zip(real[:_PAIRS], made[:_PAIRS], strict=True)]
    write_video(video, upscale(mosaic(pairs, columns=2), factor), fps)
    return [picture, video]


def write_report(folder: Path, model: str, tables: str, pictures: Sequence[Path]) -> None:
    """Write report.html: `tables` as rich exports them, and the pictures, all in one file."""
    media = "".join(map(_embedded, pictures))
    with write_atomic(folder / "report.html", "w") as file:
        file.write(
            tables.replace("<body>", f"<body><h1>{html.escape(model)}</h1>", 1).replace("</body>", f"{media}</body>")
        )


def _embedded(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    if file.suffix == ".mp4":
        caption = "real clips at the left of each pair, generated ones at the right"
        return f'<p>{caption}</p><video src="data:video/mp4;base64,{data}" autoplay loop muted controls></video>'
    return f'<p><img src="data:image/png;base64,{data}" alt="real and generated clips"></p>'
