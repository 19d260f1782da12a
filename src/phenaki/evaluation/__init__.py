"""Model quality, each metric with its protocol: reconstruction of any clips; prompts and stories on a procedural world.

Reading order: protocol, world, clips, pixels, reconstruction, generate, generation, rates, prompts, live,
inverse_dynamics, actions, report, metrics_file, compare; `files` reconstructs a user's videos.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.progress import progress_bar
from phenaki.evaluation.actions import actions
from phenaki.evaluation.clips import CLIPS, Clips
from phenaki.evaluation.compare import compare
from phenaki.evaluation.generate import FRAMES, Model
from phenaki.evaluation.generation import LARGEST, Pairs, clip_frames, generation
from phenaki.evaluation.inverse_dynamics import InverseDynamics
from phenaki.evaluation.live import live
from phenaki.evaluation.metrics_file import SUITES, write_metrics
from phenaki.evaluation.prompts import prompts, stories
from phenaki.evaluation.protocol import provenance
from phenaki.evaluation.reconstruction import PIXELS_ONLY, reconstruction
from phenaki.evaluation.report import report
from phenaki.evaluation.world import World
from phenaki.perceptual import PerceptualNetworks
from phenaki.tokenizers import Tokenizer

PROMPTS, STORIES, PLAYED = 500, 200, 60
OF_DATA = ("reconstruction", "generation", "actions")


def suites_of(
    model: Model | Tokenizer, data: str | None = None, inverse_dynamics: InverseDynamics | None = None
) -> tuple[str, ...]:
    """The suites that a model can be evaluated by, on a world or on `data`."""
    if isinstance(model, Tokenizer):
        return ("reconstruction",)
    if data:
        return OF_DATA if inverse_dynamics else ("reconstruction", "generation")
    needs_more = (
        {"generation", "actions"} if model.components.generator.has_cache else {"generation", "actions", "live"}
    )
    return tuple(name for name in SUITES if name not in needs_more)


def evaluate(
    model: Model | Tokenizer,
    suites: Sequence[str] | None = None,
    world: type[World] | None = None,
    *,
    data: str | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    clips: int = CLIPS,
    frames: int = FRAMES,
    perceptual: PerceptualNetworks = PIXELS_ONLY,
    inverse_dynamics: InverseDynamics | None = None,
    show: Pairs | None = None,
) -> dict[str, Any]:
    """Metrics of a model, or of a tokenizer alone, as JSON-serialisable data: a block per suite, by its name.

    Args:
        suites: of "reconstruction", "generation" (up to 256 clips, on `data`), "prompts" (500 of each kind), "stories"
            (200) and, of a causal generator, "live" (500 of each kind) and "actions" (60 videos, on `data`); None: all
            that apply.
        world: the procedural world that the prompts, the stories and, without `data`, the clips come from, such as
            `phenaki.worlds.shapes.evaluation.ShapesEval`.
        data: URI of the clips to reconstruct, to compare with generated ones, or to continue under actions, as for
            training.
        quick: only the first tenth of the samples.
        seed: of sampling, and of the choice of clips from `data`; clips and prompts of a world are always the same.
        progress: show a progress bar, in a terminal.
        clips, frames: how many clips to reconstruct, and their length.
        perceptual: networks for further reconstruction metrics (LPIPS, rFVD).
        inverse_dynamics: the network that scores "actions", of `phenaki train judge`.
        show: receives captions, real and generated clips of the first batch of "generation".

    Raises PhenakiError for an unknown suite, for prompts and stories of a tokenizer or without a world, and for data
    without usable clips.
    """
    suites = suites_of(model, data, inverse_dynamics) if suites is None else suites
    for name in suites:
        if name not in SUITES:
            near = did_you_mean(name, SUITES)
            raise PhenakiError(f"there is no suite '{name}'.{near} Known suites: {', '.join(SUITES)}.")
    tokenizer = model if isinstance(model, Tokenizer) else model.components.tokenizer
    if model is tokenizer and set(suites) != {"reconstruction"}:
        raise PhenakiError("a tokenizer alone generates nothing from text: evaluate only its reconstruction")
    if data and not set(suites) <= set(OF_DATA):
        raise PhenakiError(
            f"prompts and stories need the procedural world: on '{data}' evaluate reconstruction and generation"
        )
    if "generation" in suites and not data:
        raise PhenakiError("the suite 'generation' needs captioned clips to compare with: name them (--data)")
    if "actions" in suites and not (data and inverse_dynamics):
        raise PhenakiError(
            "the suite 'actions' needs recordings to continue (--data) and a network that finds actions in frames "
            "(--judge, made by `phenaki train judge`)"
        )
    if not data and world is None:
        raise PhenakiError("there is nothing to evaluate on: pass a world, or data")
    totals = clips, PROMPTS, STORIES, PLAYED
    clip_count, prompt_count, story_count, played = (max(1, n // 10) if quick else n for n in totals)
    size = tuple(tokenizer.config.image_size)
    samples = Clips(tokenizer, data or world(size, frames), clip_count, frames, seed)
    measures = {"reconstruction": (clip_count, partial(reconstruction, tokenizer, samples, perceptual=perceptual))}
    if "generation" in suites:
        held_out = Clips(tokenizer, data, min(clip_count, LARGEST), clip_frames(model), seed, captions=True)
        compared = partial(generation, model, held_out, seed, perceptual=perceptual, show=show)
        measures["generation"] = held_out.count, compared
    if "actions" in suites:
        measures["actions"] = (played, partial(actions, model, inverse_dynamics, data, played, seed))
    if not data:
        unseen = world(size, FRAMES)
        measures["prompts"] = (prompt_count * len(unseen.kinds), partial(prompts, model, unseen, prompt_count, seed))
        measures["live"] = (3 * prompt_count, partial(live, model, unseen, prompt_count, seed))
        measures["stories"] = (story_count, partial(stories, model, unseen, story_count, seed))
    metrics: dict[str, Any] = {}
    with progress_bar(visible=progress) as bar:
        for name in dict.fromkeys(suites):
            total, measure = measures[name]
            task = bar.add_task(name, total=total)
            start = time.monotonic()
            block = measure(advance=partial(bar.advance, task))
            bar.update(task, completed=total)
            environment = provenance(tokenizer if name == "reconstruction" else model)
            environment |= {"quick": quick, "seconds": round(time.monotonic() - start, 1)}
            metrics[name] = {"protocol": block.pop("protocol") | environment} | block
    return metrics
