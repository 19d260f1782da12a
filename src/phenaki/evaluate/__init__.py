"""How good a model is, on the procedural world: pixels, prompts fulfilled, stories. Each figure carries its protocol.

To be read in the order protocol (what is measured with what), generate, reconstruction, prompts, stories, report.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from phenaki.errors import PhenakiError, did_you_mean
from phenaki.evaluate.generate import Model
from phenaki.evaluate.prompts import KINDS, prompts
from phenaki.evaluate.protocol import measured_with
from phenaki.evaluate.reconstruction import reconstruction
from phenaki.evaluate.report import report, write_figures
from phenaki.evaluate.stories import stories
from phenaki.progress import progress_bar
from phenaki.tokenizer import Tokenizer

__all__ = ["WHAT", "Model", "evaluate", "prompts", "reconstruction", "report", "stories", "write_figures"]

WHAT = ("reconstruction", "prompts", "stories")
CLIPS, PROMPTS, STORIES = 512, 500, 200


def evaluate(
    model: Model | Tokenizer,
    what: Sequence[str] = WHAT,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Figures of a model, or of a tokenizer alone, that JSON can hold: a block for each of `what`, under its name.

    Args:
        what: of "reconstruction" (512 clips), "prompts" (500 of each of three kinds) and "stories" (200).
        quick: only the first tenth of them.
        seed: of the sampling; clips and prompts are always the same ones.
        progress: show a progress bar, where there is a terminal.

    Raises PhenakiError for a name that is none of these, and for prompts and stories of a tokenizer alone.
    """
    for name in what:
        if name not in WHAT:
            raise PhenakiError(f"'{name}' cannot be evaluated.{did_you_mean(name, WHAT)} There are: {', '.join(WHAT)}.")
    tokenizer = model if isinstance(model, Tokenizer) else model.tokenizer
    if model is tokenizer and set(what) != {"reconstruction"}:
        raise PhenakiError("this is a tokenizer alone, which makes nothing from text: evaluate its reconstruction only")
    clips, of_each_kind, told = (count // 10 if quick else count for count in (CLIPS, PROMPTS, STORIES))
    measures = {
        "reconstruction": (clips, partial(reconstruction, tokenizer, clips)),
        "prompts": (of_each_kind * len(KINDS), partial(prompts, model, of_each_kind, seed)),
        "stories": (told, partial(stories, model, told, seed)),
    }
    figures: dict[str, Any] = {}
    with progress_bar(shown=progress) as bar:
        for name in dict.fromkeys(what):
            total, measure = measures[name]
            task = bar.add_task(name, total=total)
            began = time.monotonic()
            found = measure(advance=partial(bar.advance, task))
            bar.update(task, completed=total)
            with_what = measured_with(tokenizer if name == "reconstruction" else model)
            took = {"quick": quick, "seconds": round(time.monotonic() - began, 1)}
            figures[name] = {"protocol": found.pop("protocol") | with_what | took} | found
    return figures
