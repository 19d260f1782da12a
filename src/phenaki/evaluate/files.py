"""Videos of a user, reconstructed: each beside its reconstruction as a video and as a sheet, with its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice, pairwise, repeat
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from phenaki.data.folder import Folder
from phenaki.data.media import ClipView, MediaFacts, Timed, probe, read_clip, read_frames
from phenaki.data.sample import BadSample
from phenaki.errors import PhenakiError
from phenaki.evaluate.pixels import decibels, ssim
from phenaki.evaluate.protocol import FITTED, measured_with
from phenaki.perceptual import LPIPS, Judges
from phenaki.tokenizer import Tokenizer
from phenaki.tokenizer.streaming import CHUNK
from phenaki.video import Frames, contact_sheet, open_writer, side_by_side, to_float, to_uint8, upscale, write_image

COLUMNS = 11  # frames on a sheet
_SMALLEST_SHOWN = 256  # pixels of height, to which smaller frames are enlarged for the eye
_LONGEST_HOLD = 60.0  # seconds that one frame may be shown; more is a jump of the time stamps
_TOLERANCE = 0.0005  # seconds: Matroska's time stamps are rounded to milliseconds

Pair = tuple[Frames, Tensor]
"""A piece of a clip, uint8 (n, H, W, 3), and its reconstruction, float32 (1, 3, n, H, W) in [0, 1]."""


class FileFigures(NamedTuple):
    """psnr: dB over all frames; ssim, lpips: means over the frames; lpips None without the network."""

    file: str
    frames: int
    psnr: float
    ssim: float
    lpips: float | None


def table(done: Sequence[FileFigures]) -> Table:
    """The figures for the eye, and below those of several files their mean."""
    shown = Table("file", "frames", "PSNR", "SSIM", *(["LPIPS"] if done[0].lpips is not None else []), box=None)
    rows = [*done, _mean(done)] if len(done) > 1 else done
    for row in rows:
        lpips = [] if row.lpips is None else [f"{row.lpips:.4f}"]
        shown.add_row(Path(row.file).name, str(row.frames), f"{row.psnr:.2f} dB", f"{row.ssim:.4f}", *lpips)
    return shown


def with_protocol(
    done: Sequence[FileFigures], tokenizer: Tokenizer, frames: int | None, lpips: LPIPS | None
) -> dict[str, Any]:
    """The figures that JSON can hold, with what they were measured with."""
    shown = {"frames": frames or "all", "fps": tokenizer.config.fps, "size": list(tokenizer.config.image_size)}
    fitted = {"place_in_time": "middle" if frames else "all"} | FITTED
    return {
        "protocol": shown | fitted | Judges(lpips).protocol | measured_with(tokenizer),
        "files": [each._asdict() for each in done],
        "mean": {name: value for name, value in _mean(done)._asdict().items() if name != "file"},
    }


def _mean(done: Sequence[FileFigures]) -> FileFigures:
    lpips = None if done[0].lpips is None else fmean(each.lpips for each in done)
    psnr, ssim = fmean(each.psnr for each in done), fmean(each.ssim for each in done)
    return FileFigures("mean", sum(each.frames for each in done), psnr, ssim, lpips)


def distinct_names(files: Sequence[Path]) -> list[str]:
    """A name for what is written of each file: its own without the ending, numbered where several have the same."""
    names: list[str] = []
    for file in files:
        tries = chain([file.stem], (f"{file.stem}_{number}" for number in count(2)))
        names.append(next(name for name in tries if name not in names))
    return names


def find_files(places: Iterable[Path]) -> list[Path]:
    """The files themselves and the videos and pictures in the folders. Raises PhenakiError for what is not there."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise PhenakiError(f"there is no file or folder '{place}'")
        if place.is_dir():
            folder = Folder(place)
            found += [folder.path(index) for index in range(len(folder))]
        else:
            found.append(place)
    return found


def reconstruct_file(
    file: Path,
    tokenizer: Tokenizer,
    out: Path,
    frames: int | None,
    lpips: LPIPS | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> FileFigures:
    """Write `out`.mp4 (original left, reconstruction right) and `out`.png (originals above, reconstructions below).

    frames: of the clip, which is the middle of the file; None: all of the file, at the tokenizer's rate, read, encoded
    and written piece by piece. The picture is scaled by its short side to the tokenizer's size, its middle is cut out.
    A still picture is a clip of one frame. `advance` is told how many frames are done.

    Raises PhenakiError, with the file's name, for a file that is no video, too short, too small, or too long and thin.
    """
    try:
        pairs = _pairs(file, tokenizer, frames)
        return _write(pairs, file, tokenizer, out, lpips, advance)
    except BadSample as error:
        raise PhenakiError(f"'{file}': {error}") from error


def _pairs(file: Path, tokenizer: Tokenizer, frames: int | None) -> Iterator[Pair]:
    ending, size, fps = file.suffix.lower(), tuple(tokenizer.config.image_size), tokenizer.config.fps
    facts = probe(file, ending)
    _check_size(facts, tokenizer)
    if frames is None:
        yield from streamed(tokenizer, at_rate(read_frames(file, ending, size), fps))
        return
    frames = 1 if facts.frames == 1 else frames
    _check_length(facts, frames, fps)
    clip = read_clip(file, ending, ClipView(frames, fps, size, random=False), np.random.default_rng(0))
    yield clip, tokenizer.decode(tokenizer.encode(_video(clip, tokenizer)))


def _check_size(facts: MediaFacts, tokenizer: Tokenizer) -> None:
    _, height, width = tokenizer.patch
    if facts.height < height or facts.width < width:
        raise BadSample(
            f"its pictures of {facts.width}x{facts.height} pixels are smaller than one patch of this tokenizer, "
            f"{width}x{height}"
        )


def _check_length(facts: MediaFacts, frames: int, fps: float) -> None:
    if facts.frames > 1 and facts.seconds <= (frames - 1) / fps:
        raise BadSample(
            f"{facts.seconds:.2f} s of video ({facts.frames} frames) are too short for a clip of {frames} frames at "
            f"{fps:g} per second: give fewer with --frames, or --all-frames"
        )


def at_rate(timed: Iterable[Timed], fps: float) -> Iterator[Frames]:
    """What is shown every 1 / fps seconds from the first frame on, uint8 (H, W, 3), until the last one's end.

    Raises BadSample for time stamps that jump.
    """
    start, given = None, 0
    for (begin, picture), (end, _) in pairwise(timed):
        if not begin <= end <= begin + _LONGEST_HOLD:
            raise BadSample(f"its time stamps jump from {begin:.2f} to {end:.2f} s")
        start = begin if start is None else start
        shown = math.ceil((end - start - _TOLERANCE) * fps) - given
        if shown > 0:
            yield from repeat(picture(), shown)
            given += shown


def streamed(tokenizer: Tokenizer, frames: Iterable[Frames]) -> Iterator[Pair]:
    """Frames (H, W, 3) in pieces with their reconstructions, in memory that does not grow with their number.

    The last frame is repeated until its time step is whole; of these repetitions nothing is given back.
    """
    encoder, decoder = tokenizer.encoder(), tokenizer.decoder()
    period, rest = tokenizer.patch[0], iter(frames)
    lead = period - 1  # the first time step has 1 frame instead of p
    while piece := tuple(islice(rest, period * CHUNK - lead)):
        clip = np.stack(piece)
        missing = -(len(clip) + lead) % period
        whole = np.pad(clip, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
        yield clip, decoder.push(encoder.push(_video(whole, tokenizer)))[:, :, : len(clip)]
        lead = 0


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
) -> FileFigures:
    height, width = tokenizer.config.image_size
    enlarged = max(1, _SMALLEST_SHOWN // height)
    size = side_by_side(np.zeros((2, 1, height, width, 3), np.uint8)).shape[1:3]
    errors, similarities, distances = [], [], []
    sheet = _Sheet()
    with open_writer(f"{out}.mp4", tokenizer.config.fps, (enlarged * size[0], enlarged * size[1])) as writer:
        for clip, decoded in pairs:
            video, reconstruction = _video(clip, tokenizer), to_uint8(decoded[0])
            errors += (decoded - video).double().square().mean((0, 1, 3, 4)).tolist()
            similarities += ssim(decoded, video)[0].tolist()
            distances += lpips(decoded, video)[0].tolist() if lpips is not None else []
            writer.add(upscale(side_by_side([clip, reconstruction]), enlarged))
            for pair in zip(clip, reconstruction, strict=True):
                sheet.add(pair)
            advance(len(clip))
        write_image(f"{out}.png", sheet.picture())
    return FileFigures(
        str(file),
        len(errors),
        float(decibels(torch.tensor(errors, dtype=torch.float64).mean())),
        float(np.mean(similarities)),
        float(np.mean(distances)) if distances else None,
    )


class _Sheet:
    """Evenly spaced frames of a video whose length is not known before its end."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Frames, Frames]] = []
        self.step, self.seen = 1, 0

    def add(self, pair: tuple[Frames, Frames]) -> None:
        if self.seen % self.step == 0:
            self.pairs.append(pair)
        self.seen += 1
        if len(self.pairs) == 4 * COLUMNS:
            self.pairs, self.step = self.pairs[::2], 2 * self.step

    def picture(self) -> Frames:
        """Originals above, reconstructions below."""
        rows = [np.stack(row) for row in zip(*self.pairs, strict=True)]
        return contact_sheet(rows, columns=COLUMNS, frames=COLUMNS)
