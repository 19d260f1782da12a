"""How well a causal generator is steered: prompts that change at any moment, keys, and long stories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from phenaki.core.config import to_dict
from phenaki.core.errors import PhenakiError
from phenaki.evaluation.generate import FRAMES, Advance, Model, batch_size, batches, score_videos
from phenaki.evaluation.rates import success_rate
from phenaki.evaluation.world import World
from phenaki.media.convert import Frames, to_uint8
from phenaki.sampling import CausalRollout

SCENES = 10  # of a long story
DELAYS = (5, 15)  # latent frames after which a prompt changes, or a key is pressed, from a to b
SECONDS = 2.0  # of video within which a new prompt is to be fulfilled
KEY_LATENT_FRAMES = 2  # within which a key is to be obeyed


def live(model: Model, world: World, count: int, seed: int, advance: Advance) -> dict[str, Any]:
    """Success rates of a model that is steered while it runs, on `count` videos of each kind.

    `new_prompts`: a caption that continues a scene is said at a random moment after it, and fulfilled by some 11 frames
    of the next 2 s. `keys`: one is held from a random moment on, and the object under control moves that way within 2
    latent frames. `drift`: of stories of ten scenes, the rate of scenes 2 to 4 less that of scenes 8 to 10.

    Raises PhenakiError for a generator that is not causal.
    """
    generator = model.components.generator
    if not generator.has_cache:
        raise PhenakiError("the suite 'live' steers a causal generator, and this one writes whole clips")
    rng = np.random.default_rng(seed)
    metrics: dict[str, Any] = {"new_prompts": success_rate(new_prompts(model, world, count, rng, advance), count)}
    if world.keys and generator.config.actions is not None:
        found = _keys(model, world, count, rng, advance)
        metrics["keys"] = success_rate(sum(found), len(found))
    reports = score_videos(model, world.stories(count, SCENES), world.check_story, seed, advance)
    fulfilled = np.array([[scene.fulfilled for scene in report.scenes] for report in reports])
    metrics["scenes"] = success_rate(int(fulfilled.sum()), fulfilled.size, independent=count) | {
        "by_position": [success_rate(int(column.sum()), count) for column in fulfilled.T]
    }
    metrics["drift"] = float(fulfilled[:, 1:4].mean() - fulfilled[:, 7:10].mean())
    protocol = {"videos_of_each_kind": count, "scenes": SCENES, "seed": seed, "batch": batch_size(model)}
    protocol |= {"delays": list(DELAYS), "seconds": SECONDS, "sampling": to_dict(model.sampling)}
    return {"protocol": protocol | world.protocol("one_object")} | metrics


def new_prompts(model: Model, world: World, count: int, rng: np.random.Generator, advance: Advance) -> int:
    """How many of `count` new prompts are fulfilled in time."""
    period, fps = model.components.tokenizer.patch[0], model.components.tokenizer.config.fps
    spare = max(0, round(SECONDS * fps) - (FRAMES - 1))
    good = 0
    for stories in batches(world.stories(count, 2), batch_size(model)):
        delays = rng.integers(DELAYS[0], DELAYS[1] + 1, len(stories))
        length = int(delays.max()) + -(-round(SECONDS * fps) // period)

        def prompts(latent: int, stories: Any = stories, delays: Any = delays) -> tuple[str, ...]:
            return tuple(story[int(latent > delay)] for story, delay in zip(stories, delays, strict=True))

        for video, story, delay in zip(_play(model, length, prompts, rng), stories, delays, strict=True):
            last = int(delay) * period  # frame before the new prompt
            good += any(world.check(video[s : s + FRAMES], story[1]).fulfilled for s in range(last, last + spare + 1))
        advance(len(stories))
    return good


def _keys(model: Model, world: World, count: int, rng: np.random.Generator, advance: Advance) -> list[bool]:
    """Which keys are obeyed in time, of those of which it can be told."""
    spec, period = model.components.generator.config.actions, model.components.tokenizer.patch[0]
    found: list[bool | None] = []
    for captions in batches(world.controlled(count), batch_size(model)):
        delays = rng.integers(DELAYS[0], DELAYS[1] + 1, len(captions))
        keys = rng.integers(0, len(world.keys), len(captions))
        columns = [spec.index(world.keys[key]) for key in keys]

        def actions(latent: int, delays: Any = delays, columns: Any = columns) -> torch.Tensor:
            rows = torch.zeros(len(delays), period, len(spec))
            for sample, (delay, column) in enumerate(zip(delays, columns, strict=True)):
                rows[sample, :, column] = float(latent > delay)
            return rows.flatten(1)

        length = int(delays.max()) + KEY_LATENT_FRAMES
        videos = _play(model, length, lambda _, captions=captions: tuple(captions), rng, actions)
        for video, key, delay in zip(videos, keys, delays, strict=True):
            first = int(delay) * period
            found.append(world.obeyed(video[first : first + 1 + KEY_LATENT_FRAMES * period], world.keys[key]))
        advance(len(captions))
    return [each for each in found if each is not None]


def _play(
    model: Model,
    latent_frames: int,
    prompts: Callable[[int], tuple[str, ...]],
    rng: np.random.Generator,
    actions: Callable[[int], torch.Tensor] | None = None,
) -> Frames:
    """Videos uint8 (B, T, H, W, 3) of so many latent frames after the first, each under the prompts of its number."""
    components = model.components
    seeded = torch.Generator(components.device).manual_seed(int(rng.integers(2**62)))
    rollout = CausalRollout(components, model.sampling, seeded, len(prompts(0)))
    spec, period = components.generator.config.actions, components.tokenizer.patch[0]
    zeros = None if spec is None else torch.zeros(rollout.samples, period * len(spec))
    pieces, said, text = [], None, None
    for latent in range(latent_frames + 1):
        if prompts(latent) != said:
            said = prompts(latent)
            text = components.encode_text(said, rollout.samples)
        rows = zeros if actions is None else actions(latent)
        pieces.append(rollout.step(text, None if rows is None else rows.to(components.device)))
    return to_uint8(torch.cat(pieces, dim=2))
