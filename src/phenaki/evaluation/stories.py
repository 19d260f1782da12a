"""Stories of three scenes: whether each scene fulfils its caption, and whether object and background persist."""

from __future__ import annotations

from typing import Any

from phenaki.core.config import to_dict
from phenaki.evaluation.generate import Advance, Model, batch_size, score_videos
from phenaki.evaluation.rates import claim_rates, success_rate
from phenaki.evaluation.world import World

SCENES = 3


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
