"""Check the installation: `phenaki doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from phenaki.cli.app import app
from phenaki.core.errors import PhenakiError
from phenaki.core.version import __version__

if TYPE_CHECKING:
    import torch

NOT_USABLE = 1
_NEEDED = ("torch", "numpy", "av", "pillow", "safetensors", "omegaconf", "rich")
_EXTRAS = {  # purpose and packages
    "train": ("TensorBoard's curves", ("tensorboard",)),
    "wandb": ("run.trackers=[wandb]", ("wandb",)),
    "data": ("captions in Parquet", ("pyarrow",)),
    "text": ("T5 and CLIP", ("transformers", "sentencepiece")),
    "s3": ("data in buckets", ("s3fs",)),
    "play": ("the page of `phenaki play`", ("fastapi", "uvicorn", "websockets")),
    "metrics": ("FVD and the like", ("torchmetrics",)),
}
_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
_LEAST_FREE = 5e9  # bytes of a disk, for checkpoints
_PRODUCT, _SECONDS = 1024, 0.2  # rows of the matrices, and how long to multiply them


class Finding(NamedTuple):
    """`note`: something optional is missing. `broken`: phenaki does not work. `way_out`: how to fix it, if needed."""

    kind: Literal["good", "note", "broken"]
    about: str
    sentence: str
    way_out: str = ""


@app.command(rich_help_panel="Other")
def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Measure the GPU, and steps of recipes beside what `phenaki plan` expects.")
    ] = False,
) -> None:
    """Check the installation: versions, devices, video codecs, disk, extras and weights, with fixes.

    Exits with code 0 if phenaki works on this machine. With --gpu it takes minutes, as recipes are compiled; please
    send us the report.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if gpu:
        from phenaki.cli.gpu_report import gpu_report
        from phenaki.core.precision import best_device

        device = best_device()
        if device.type != "cuda":
            raise PhenakiError("--gpu: torch finds no CUDA device here (`phenaki doctor` says why)")
        for line in gpu_report(device):
            console.print(line)
        return
    signs = {"good": "ok", "note": "--", "broken": "!!"}
    broken = False
    for examine in (_versions, _devices, _decoder, _disk, _extras, _weights):
        for finding in _findings(examine):
            console.print(f"{signs[finding.kind]}  {finding.about:<14}{finding.sentence}")
            if finding.way_out:
                console.print(f"{'':18}-> {finding.way_out}")
            broken |= finding.kind == "broken"
    if broken:
        raise typer.Exit(NOT_USABLE)


def _findings(examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Those of one check. Whatever stops it, such as a broken package or driver, is one too."""
    try:
        yield from examine()
    except Exception as error:
        what = examine.__name__.strip("_")
        yield Finding("broken", what, f"check failed: {type(error).__name__}: {error}", "fix this first")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    found = {package: _version(package) for package in _NEEDED}
    listed = ", ".join(f"{package} {version}" for package, version in found.items() if version)
    python = platform.python_version()
    yield Finding("good", "versions", f"phenaki {__version__}, Python {python}, {listed}")
    if missing := [package for package, version in found.items() if not version]:
        yield Finding("broken", "packages", f"{', '.join(missing)} missing", f"pip install {' '.join(missing)}")


def _devices() -> Iterator[Finding]:
    import torch

    cpu = torch.device("cpu")
    yield Finding("good", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {_memory()}")
    yield _bfloat16(cpu)
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield Finding("good", f"GPU {number}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
        yield _bfloat16(torch.device("cuda", number))
    if not torch.cuda.is_available():
        made_for = torch.version.cuda
        way_out = "install a driver, or use the CPU" if made_for else "the CPU is used"
        reason = f"torch is built for CUDA {made_for} and finds no GPU" if made_for else "torch is built without CUDA"
        yield Finding("note", "GPU", f"none: {reason}", way_out)


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"


def _bfloat16(device: torch.device) -> Finding:
    """Whether matrix products are faster in bfloat16, and whether run.precision=auto uses it."""
    import torch

    from phenaki.core.precision import prefers_bfloat16

    rate, half_rate = (_products_a_second(device, kind) for kind in (torch.float32, torch.bfloat16))
    operations = 2 * _PRODUCT**3 / 1e12
    sentence = f"{half_rate / rate:.1f}x the speed of float32 ({half_rate * operations:.2g} TFLOP/s)"
    pays, taken = half_rate > rate, prefers_bfloat16(device)
    if pays == taken:
        return Finding("good", "bfloat16", f"{sentence}; run.precision=auto {'uses' if taken else 'avoids'} it")
    better = "bfloat16" if pays else "float32"
    other = "float32" if pays else "bfloat16"
    return Finding("note", "bfloat16", f"{sentence}, but run.precision=auto uses {other}", f"run.precision={better}")


def _products_a_second(device: torch.device, kind: torch.dtype) -> float:
    import torch

    a = torch.randn(_PRODUCT, _PRODUCT, generator=torch.Generator().manual_seed(0)).to(device, kind)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    a @ a  # loads the kernel
    wait()
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        a @ a
        wait()
        products += 1
    return products / (time.perf_counter() - began)


def _decoder() -> Iterator[Finding]:
    """Write a video and read it back."""
    import numpy as np

    from phenaki.core.errors import PhenakiError
    from phenaki.media.reader import read_video
    from phenaki.media.streams import decoders
    from phenaki.media.writer import write_video

    way_out = "pip install --force-reinstall av"
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.mp4"
            write_video(file, np.zeros((3, 32, 32, 3), np.uint8), 8)
            frames = len(read_video(file).frames)
    except (PhenakiError, OSError, ValueError) as error:
        yield Finding("broken", "video", f"a clip cannot be written and read back: {error}", way_out)
        return
    known = decoders()
    if frames != 3:
        yield Finding("broken", "video", f"read back {frames} frames of 3", way_out)
    yield Finding("good", "video", f"PyAV {_version('av')} reads {', '.join(c for c in _CODECS if c in known)}")
    if missing := [codec for codec in _CODECS if codec not in known]:
        yield Finding("note", "video", f"no decoder for {', '.join(missing)}", "convert such files, or " + way_out)


def _disk() -> Iterator[Finding]:
    from phenaki.perceptual.weights import cache

    for about, folder in (("this folder", Path.cwd()), ("cache", cache())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        short = free < _LEAST_FREE or not os.access(there, os.W_OK)
        allowed = "" if os.access(there, os.W_OK) else ", not writable"
        way_out = "free some space, or use --out on another disk" if short else ""
        yield Finding(
            "note" if short else "good", "disk", f"{free / 1e9:.0f} GB free in {about} {folder}{allowed}", way_out
        )


def _extras() -> Iterator[Finding]:
    for name, (purpose, packages) in _EXTRAS.items():
        if all(map(_version, packages)):
            versions = ", ".join(f"{package} {_version(package)}" for package in packages)
            yield Finding("good", f"extra {name}", versions)
        else:
            yield Finding("note", f"extra {name}", f"not installed ({purpose})", f"pip install 'phenaki[{name}]'")


def _weights() -> Iterator[Finding]:
    from phenaki.core import hub
    from phenaki.core.errors import PhenakiError
    from phenaki.perceptual import load_i3d, load_lpips

    models = sorted(path.name for path in hub.ZOO.iterdir() if path.is_dir()) if hub.ZOO.is_dir() else []
    if models:
        yield Finding("good", "models", ", ".join(models))
    else:
        yield Finding("note", "models", "none in this installation", "pip install --force-reinstall phenaki")
    for name, load in (("LPIPS", load_lpips), ("I3D", load_i3d)):
        try:
            yield Finding("good", name, " and ".join(load().files))
        except PhenakiError as error:
            sentence, _, way_out = str(error).partition(": ")
            yield Finding("note", name, sentence, way_out)
