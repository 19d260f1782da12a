"""The samples that a run could not use, named in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

FILE = "bad_samples.txt"
_PRINTED = 10


class BadSamples:
    """Writes each unusable sample once into bad_samples.txt, shared by all processes that see the folder."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.path, self._say = folder / FILE, say
        self._own: set[str] = set()

    def reset(self, remove: bool) -> None:
        """Begin with the samples in the file, or, with `remove`, without any."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._own = self.names()

    def add(self, sentence: str) -> None:
        """Name a sample and the reason; the first few are printed too. Only the name identifies a sample, as the reason
        may mention a random instant of the file."""
        if _name(sentence) in self._own:
            return
        self._own.add(_name(sentence))
        self.path.parent.mkdir(parents=True, exist_ok=True)  # this machine may not see the main process's folder
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{sentence}\n")
        if len(self._own) <= _PRINTED:
            self._say(f"skipped: {sentence}")

    def names(self) -> set[str]:
        """The samples in the file, which other processes write too."""
        return set(map(_name, self.path.read_text(encoding="utf-8").splitlines())) if self.path.exists() else set()


def _name(sentence: str) -> str:
    return sentence.partition(": ")[0]
