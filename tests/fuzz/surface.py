"""What a surface of the fuzzer is."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple


class Case(NamedTuple):
    """An input, in a few words, and what is done with it. `run` raises AssertionError for a wrong result."""

    description: str
    run: Callable[[], object]


class Surface(ABC):
    """A way into the package, with sound inputs that are broken. folder: its own, which inputs may write into."""

    name: str
    weight: float
    """Of its inputs among those of all surfaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def case(self, rng: Random) -> Case:
        """An input, a function of `rng`."""

    def fresh(self, name: str = "input") -> Path:
        """A path in the folder where nothing lies."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path
