"""Finding the weight files of third-party networks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from phenaki.core.errors import PhenakiError

SUFFIX = ".safetensors"


class MissingWeights(PhenakiError):
    """The cache lacks the weights; callers that can do without them catch this."""


def cache() -> Path:
    """$PHENAKI_CACHE, or ~/.cache/phenaki."""
    return Path(os.environ.get("PHENAKI_CACHE") or Path.home() / ".cache" / "phenaki")


def find(path: str | Path | None, choices: Sequence[tuple[str, ...]], help: str) -> list[Path]:
    """The weight files: `path` itself if it is a file, else those in the folder `path` (None: the cache).

    choices: alternative sets of file names; the first complete set is used. help: how to get the files, for the error.
    Raises MissingWeights if the cache lacks them, PhenakiError if `path` does.
    """
    folder = cache() if path is None else Path(path)
    if folder.is_file():
        return [folder]
    for names in choices:
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            return files
    wanted = ", or ".join(" and ".join(names) for names in choices)
    if path is None:
        raise MissingWeights(f"there is no {wanted} in '{folder}': {help}")
    problem = f"there is no {wanted} in '{folder}'" if folder.is_dir() else f"there is no file or folder '{folder}'"
    raise PhenakiError(f"{problem}: {help}")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
