"""How many videos of unseen prompts, and scenes of unseen stories, show everything that the caption claims."""

from __future__ import annotations

import time
from typing import Any

from phenaki.core.config import to_dict
from phenaki.evaluation.generate import FRAMES, Advance, Model, batch_size, batches, generate, score_videos, seeded_rng
from phenaki.evaluation.rates import claim_rates, success_rate
from phenaki.evaluation.world import World

SCENES = 3  # of a story
SINGLE_CLIPS = 3  # generated one at a time to measure their speed


def prompts(model: Model, world: World, count: int, seed: int, advance: Advance) -> dict[str, Any]:
    """For each kind of prompt the rate of videos, of the first `count` prompts, that fulfil all claims of the caption.

    `claims`: the rate of each kind of claim. `frames_per_second`: new frames from prompt to pixels, without imports and
    loading: in batches, checks included, and one clip at a time.
    """
    captions = [(prompt,) for kind in world.kinds for prompt in world.prompts(kind, count)]
    start = time.monotonic()
    reports = score_videos(model, captions, lambda clip, caption: world.check(clip, *caption), seed, advance)
    speed = {"batched": FRAMES * len(captions) / (time.monotonic() - start)}
    start = time.monotonic()
    for caption in captions[-SINGLE_CLIPS:]:
        generate(model, [caption], seeded_rng(model, seed), advance=lambda _: None)
    speed["single"] = FRAMES * len(captions[-SINGLE_CLIPS:]) / (time.monotonic() - start)
    metrics = {}
    for (kind, settings), of_kind in zip(world.kinds.items(), batches(reports, count), strict=True):
        fulfilled = success_rate(sum(report.fulfilled for report in of_kind), count)
        metrics[kind] = {**settings, **fulfilled, "claims": claim_rates(of_kind)}
    varying = {name for settings in world.kinds.values() for name in settings}
    protocol = {name: value for name, value in world.protocol().items() if name not in varying}
    protocol |= {"prompts_of_each_kind": count, "seed": seed, "batch": batch_size(model)}
    return {"protocol": protocol | {"sampling": to_dict(model.sampling)}, **metrics, "frames_per_second": speed}


def stories(model: Model, world: World, count: int, seed: int, advance: Advance) -> dict[str, Any]:
    """Success rates on the first `count` unseen stories on one object.

    `scenes`: scenes that fulfil their caption; the interval is the conservative one, as if scenes of one story were
    fully dependent. `persistent`: stories with the same object and background in all scenes. `fulfilled`: persistent
    stories all of whose scenes fulfil their captions.
    """
    captions = world.stories(count, SCENES)
    reports = score_videos(model, captions, world.check_story, seed, advance)
    fulfilled = [[scene.fulfilled for scene in report.scenes] for report in reports]
    protocol = {"stories": count, "scenes": SCENES, "seed": seed, "batch": batch_size(model)}
    protocol["sampling"] = to_dict(model.sampling)
    return {
        "protocol": protocol | world.protocol("one_object"),
        "scenes": success_rate(sum(map(sum, fulfilled)), count * SCENES, independent=count)
        | {"by_position": [success_rate(sum(scenes), count) for scenes in zip(*fulfilled, strict=True)]}
        | {"claims": claim_rates(scene for report in reports for scene in report.scenes)},
        "persistent": success_rate(sum(report.same_objects and report.same_background for report in reports), count),
        "same_object": success_rate(sum(report.same_objects for report in reports), count),
        "same_background": success_rate(sum(report.same_background for report in reports), count),
        "fulfilled": success_rate(sum(report.fulfilled for report in reports), count),
    }
