"""How good a model is: pixels, of any clips; prompts fulfilled and stories, on the procedural world. Each figure
carries its protocol.

To be read in the order protocol (what is measured with what), clips, pixels, reconstruction, generate, prompts,
stories, report, compare; `files` reconstructs the videos of a user.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.progress import progress_bar
from phenaki.data.config import SHAPES
from phenaki.evaluation.clips import CLIPS, Clips
from phenaki.evaluation.compare import compare
from phenaki.evaluation.generate import FRAMES, Model
from phenaki.evaluation.prompts import KINDS, prompts
from phenaki.evaluation.protocol import measured_with
from phenaki.evaluation.reconstruction import PIXELS_ONLY, reconstruction
from phenaki.evaluation.report import report, write_figures
from phenaki.evaluation.stories import stories
from phenaki.perceptual import Judges
from phenaki.tokenizers import Tokenizer

__all__ = [
    "WHAT",
    "Clips",
    "Judges",
    "Model",
    "compare",
    "evaluate",
    "prompts",
    "reconstruction",
    "report",
    "stories",
    "write_figures",
]

WHAT = ("reconstruction", "prompts", "stories")
PROMPTS, STORIES = 500, 200


def evaluate(
    model: Model | Tokenizer,
    what: Sequence[str] = WHAT,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str = SHAPES,
    clips: int = CLIPS,
    frames: int = FRAMES,
    judges: Judges = PIXELS_ONLY,
) -> dict[str, Any]:
    """Figures of a model, or of a tokenizer alone, that JSON can hold: a block for each of `what`, under its name.

    Args:
        what: of "reconstruction", "prompts" (500 of each of three kinds) and "stories" (200).
        quick: only the first tenth of them.
        seed: of the sampling, and of the choice among the clips of `data`; those of the procedural world, and the
            prompts, are always the same ones.
        progress: show a progress bar, where there is a terminal.
        data: where the clips of the reconstruction come from, any place as for training.
        clips, frames: how many clips, and how long ones.
        judges: networks for further figures of the reconstruction (LPIPS, rFVD).

    Raises PhenakiError for a name that is none of these, for prompts and stories of a tokenizer alone or on other data
    than the procedural world, and for data without usable clips.
    """
    for name in what:
        if name not in WHAT:
            raise PhenakiError(f"'{name}' cannot be evaluated.{did_you_mean(name, WHAT)} There are: {', '.join(WHAT)}.")
    tokenizer = model if isinstance(model, Tokenizer) else model.tokenizer
    if model is tokenizer and set(what) != {"reconstruction"}:
        raise PhenakiError("this is a tokenizer alone, which makes nothing from text: evaluate its reconstruction only")
    if data != SHAPES and set(what) != {"reconstruction"}:
        raise PhenakiError(
            f"prompts and stories are judged on the procedural world alone: of '{data}' reconstruction only"
        )
    count, of_each_kind, told = (max(1, n // 10) if quick else n for n in (clips, PROMPTS, STORIES))
    shown = Clips(tokenizer, data, count, frames, seed)
    measures = {
        "reconstruction": (count, partial(reconstruction, tokenizer, shown, judges=judges)),
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
