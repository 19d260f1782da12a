"""Reconstruction metrics of a user's files, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from phenaki.evaluation.protocol import PREPROCESSING, provenance
from phenaki.perceptual import LPIPS, PerceptualNetworks
from phenaki.tokenizers import Tokenizer


class FileMetrics(NamedTuple):
    """psnr: dB over all frames; ssim, lpips: means over frames; lpips is None without the network."""

    file: str
    frames: int
    psnr: float
    ssim: float
    lpips: float | None


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
