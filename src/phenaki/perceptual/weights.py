"""Where the weights of other people's networks lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from phenaki.core.errors import PhenakiError

SUFFIX = ".safetensors"


class MissingWeights(PhenakiError):
    """Weights that nobody has put where they are looked for; whoever can do without them catches this."""


def cache() -> Path:
    """The user's folder for such files: $PHENAKI_CACHE, or ~/.cache/phenaki."""
    return Path(os.environ.get("PHENAKI_CACHE") or Path.home() / ".cache" / "phenaki")


def find(path: str | Path | None, choices: Sequence[tuple[str, ...]], help: str) -> list[Path]:
    """The files of a network: `path` itself, or the first of `choices` (names of files that belong together) that is
    whole in the folder `path`, for None in the cache.

    Raises MissingWeights, with `help` (what to get from where), for a cache without them, and PhenakiError for a given
    path without them.
    """
    place = cache() if path is None else Path(path)
    if place.is_file():
        return [place]
    for names in choices:
        files = [place / name for name in names]
        if all(file.is_file() for file in files):
            return files
    wanted = ", or ".join(" and ".join(names) for names in choices)
    if path is None:
        raise MissingWeights(f"there is no {wanted} in '{place}': {help}")
    lacks = f"the folder '{place}' holds no {wanted}" if place.is_dir() else f"there is no file or folder '{place}'"
    raise PhenakiError(f"{lacks}: {help}")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
