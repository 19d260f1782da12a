"""The words of the captions that a run has trained on, for the domain of its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phenaki.core.files import write_atomic
from phenaki.data.batch import Batch
from phenaki.pipeline import Domain
from phenaki.pipeline.domain import split_words

FILE = "words.txt"
_EXAMPLES, _LONGEST = 4, 120  # prompts, characters


class KnownWords:
    """Collects words, and keeps them in words.txt of the run's folder, so that a resumed run goes on with them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._words: set[str] = set()

    def add(self, batch: Batch) -> None:
        timed = [caption for row in batch.get("timed_captions", ()) for _, caption in row]
        self._words.update(word for caption in (*batch["captions"], *timed) for word in split_words(caption))

    def domain(self, samples: Sequence[Any]) -> Domain:
        """What model.json says: the words so far, and short captions of the samples, in
        these words, as examples."""
        if self._path.exists():  # read only now: a run that replaces another has removed it by its first step
            self._words.update(self._path.read_text(encoding="utf-8").split())
        with write_atomic(self._path, "w") as file:
            file.write("\n".join(sorted(self._words)) + "\n")
        captions = dict.fromkeys(
            sample.caption
            for sample in samples
            if 0 < len(sample.caption) <= _LONGEST and self._words.issuperset(split_words(sample.caption))
        )
        return Domain(prompts=tuple(captions)[:_EXAMPLES], words=tuple(sorted(self._words)))
