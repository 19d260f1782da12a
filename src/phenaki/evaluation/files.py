"""Reconstructions of a user's videos: a side-by-side video, a contact sheet and metrics for each file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from phenaki.core.errors import BadSample, PhenakiError
from phenaki.evaluation.pixels import decibels, ssim
from phenaki.evaluation.protocol import PREPROCESSING, provenance
from phenaki.media.convert import Frames, to_float, to_uint8
from phenaki.media.montage import contact_sheet, side_by_side, upscale
from phenaki.media.reader import probe, read_clip, read_frames
from phenaki.media.resample import resample
from phenaki.media.view import ClipView, MediaInfo
from phenaki.media.writer import open_writer, write_image
from phenaki.perceptual import LPIPS, PerceptualNetworks
from phenaki.tokenizers import Tokenizer
from phenaki.tokenizers.streaming import CHUNK

COLUMNS = 11  # frames on a contact sheet
_MIN_HEIGHT = 256  # pixels; smaller frames are enlarged in the side-by-side video

Pair = tuple[Frames, Tensor]
"""A chunk of a clip, uint8 (n, H, W, 3), and its reconstruction, float32 (1, 3, n, H, W) in [0, 1]."""


class FileMetrics(NamedTuple):
    """psnr: dB over all frames; ssim, lpips: means over frames; lpips is None without the network."""

    file: str
    frames: int
    psnr: float
    ssim: float
    lpips: float | None


def reconstruct_file(
    file: Path,
    tokenizer: Tokenizer,
    out: Path,
    frames: int | None,
    lpips: LPIPS | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> FileMetrics:
    """Write `out`.mp4 (original left, reconstruction right) and `out`.png (originals above, reconstructions below).

    `frames`: length of the clip, taken from the middle of the file; None streams the whole file at the tokenizer's
    rate, in bounded memory. Frames are scaled by their short side to the tokenizer's size and center-cropped. An image
    is a clip of one frame. `advance` is called with the number of frames done.

    Raises PhenakiError, with the file's name, for a file that is not a video, too short, too small, or too elongated.
    """
    try:
        pairs = _pairs(file, tokenizer, frames)
        return _write(pairs, file, tokenizer, out, lpips, advance)
    except BadSample as error:
        raise PhenakiError(f"'{file}': {error}") from error


def _pairs(file: Path, tokenizer: Tokenizer, frames: int | None) -> Iterator[Pair]:
    ending, size, fps = file.suffix.lower(), tuple(tokenizer.config.image_size), tokenizer.config.fps
    info = probe(file, ending)
    _check_size(info, tokenizer)
    if frames is None:
        yield from reconstruct_stream(tokenizer, resample(read_frames(file, ending, size), fps))
        return
    frames = 1 if info.frames == 1 else frames
    _check_length(info, frames, fps)
    clip = read_clip(file, ending, ClipView(frames, fps, size, random=False), np.random.default_rng(0))
    yield clip, tokenizer.decode(tokenizer.encode(_video(clip, tokenizer)))


def _check_size(info: MediaInfo, tokenizer: Tokenizer) -> None:
    _, height, width = tokenizer.patch
    if info.height < height or info.width < width:
        raise BadSample(
            f"its frames of {info.width}x{info.height} pixels are smaller than one patch of this tokenizer, "
            f"{width}x{height}"
        )


def _check_length(info: MediaInfo, frames: int, fps: float) -> None:
    if info.frames > 1 and info.seconds <= (frames - 1) / fps:
        raise BadSample(
            f"{info.seconds:.2f} s of video ({info.frames} frames) are too short for a clip of {frames} frames at "
            f"{fps:g} fps: use fewer --frames, or --all-frames"
        )


def reconstruct_stream(tokenizer: Tokenizer, frames: Iterable[Frames]) -> Iterator[Pair]:
    """Frames (H, W, 3) in chunks, each with its reconstruction, in memory independent of their number.

    The last frame is repeated to complete the last latent frame; the repeats are not returned.
    """
    encoder, decoder = tokenizer.encoder(), tokenizer.decoder()
    period, rest = tokenizer.patch[0], iter(frames)
    missing_first = period - 1  # the first latent frame has 1 frame, all others have p
    while chunk := tuple(islice(rest, period * CHUNK - missing_first)):
        clip = np.stack(chunk)
        padding = -(len(clip) + missing_first) % period
        padded = np.pad(clip, ((0, padding), (0, 0), (0, 0), (0, 0)), mode="edge")
        yield clip, decoder.push(encoder.push(_video(padded, tokenizer)))[:, :, : len(clip)]
        missing_first = 0


def _video(clip: Frames, tokenizer: Tokenizer) -> Tensor:
    return to_float(clip).to(next(tokenizer.parameters()).device)


@torch.no_grad()
def _write(
    pairs: Iterator[Pair],
    file: Path,
    tokenizer: Tokenizer,
    out: Path,
    lpips: LPIPS | None,
    advance: Callable[[int], None],
) -> FileMetrics:
    height, width = tokenizer.config.image_size
    factor = max(1, _MIN_HEIGHT // height)
    size = side_by_side(np.zeros((2, 1, height, width, 3), np.uint8)).shape[1:3]
    errors, similarities, distances = [], [], []
    sheet = _ContactSheet()
    with open_writer(f"{out}.mp4", tokenizer.config.fps, (factor * size[0], factor * size[1])) as writer:
        for clip, decoded in pairs:
            video, reconstruction = _video(clip, tokenizer), to_uint8(decoded[0])
            errors += (decoded - video).cpu().double().square().mean((0, 1, 3, 4)).tolist()
            similarities += ssim(decoded, video)[0].tolist()
            distances += lpips(decoded, video)[0].tolist() if lpips is not None else []
            writer.add(upscale(side_by_side([clip, reconstruction]), factor))
            for pair in zip(clip, reconstruction, strict=True):
                sheet.add(pair)
            advance(len(clip))
        write_image(f"{out}.png", sheet.image())
    return FileMetrics(
        str(file),
        len(errors),
        float(decibels(torch.tensor(errors, dtype=torch.float64).mean())),
        float(np.mean(similarities)),
        float(np.mean(distances)) if distances else None,
    )


class _ContactSheet:
    """Evenly spaced frames of a video of unknown length, in bounded memory."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Frames, Frames]] = []
        self.stride, self.count = 1, 0

    def add(self, pair: tuple[Frames, Frames]) -> None:
        if self.count % self.stride == 0:
            self.pairs.append(pair)
        self.count += 1
        if len(self.pairs) == 4 * COLUMNS:
            self.pairs, self.stride = self.pairs[::2], 2 * self.stride

    def image(self) -> Frames:
        """Originals above, reconstructions below."""
        rows = [np.stack(row) for row in zip(*self.pairs, strict=True)]
        return contact_sheet(rows, columns=COLUMNS, frames=COLUMNS)


def metrics_table(files: Sequence[FileMetrics]) -> Table:
    """A row per file, and the mean of several."""
    table = Table("file", "frames", "PSNR", "SSIM", *(["LPIPS"] if files[0].lpips is not None else []), box=None)
    for row in [*files, _mean(files)] if len(files) > 1 else files:
        lpips = [] if row.lpips is None else [f"{row.lpips:.4f}"]
        table.add_row(Path(row.file).name, str(row.frames), f"{row.psnr:.2f} dB", f"{row.ssim:.4f}", *lpips)
    return table


def metrics_json(
    files: Sequence[FileMetrics], tokenizer: Tokenizer, frames: int | None, lpips: LPIPS | None
) -> dict[str, Any]:
    """The metrics with their protocol as JSON-serialisable data."""
    clip = {"frames": frames or "all", "fps": tokenizer.config.fps, "size": list(tokenizer.config.image_size)}
    cropped = {"temporal_crop": "center" if frames else "none"} | PREPROCESSING
    return {
        "protocol": clip | cropped | PerceptualNetworks(lpips).protocol | provenance(tokenizer),
        "files": [file._asdict() for file in files],
        "mean": {name: value for name, value in _mean(files)._asdict().items() if name != "file"},
    }


def _mean(files: Sequence[FileMetrics]) -> FileMetrics:
    lpips = None if files[0].lpips is None else fmean(file.lpips for file in files)
    psnr, ssim = fmean(file.psnr for file in files), fmean(file.ssim for file in files)
    return FileMetrics("mean", sum(file.frames for file in files), psnr, ssim, lpips)
