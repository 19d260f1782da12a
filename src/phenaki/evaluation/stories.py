"""Stories of three scenes: whether each scene fulfils its caption, and whether the same things stay to be seen."""

from __future__ import annotations

from typing import Any

from phenaki.core.config import to_dict
from phenaki.evaluation.generate import FRAMES, Advance, Model, side_by_side, verdicts
from phenaki.evaluation.protocol import measured_on, unseen_world
from phenaki.evaluation.shares import share, shares_of_claims
from phenaki.worlds.shapes import check_story

SCENES = 3


def stories(model: Model, count: int, seed: int, advance: Advance) -> dict[str, Any]:
    """Shares of scenes fulfilled and of stories that hold together, of the first `count` unseen ones on one object.

    `scenes`: fulfilled scenes; their interval is the widest that the likeness of scenes of one story allows.
    `persistent`: stories in all of whose scenes the same object and the same background are seen; `whole`: that are
    persistent with all scenes fulfilled.
    """
    world = unseen_world(model.tokenizer, objects=1)
    captions = [world.story(i, SCENES).captions for i in range(count)]
    reports = verdicts(model, captions, lambda video, told: check_story(video, told, FRAMES), seed, advance)
    fulfilled = [[scene.fulfilled for scene in report.scenes] for report in reports]
    made = {"stories": count, "scenes": SCENES, "seed": seed, "batch": side_by_side(model)}
    made["sampling"] = to_dict(model.sampling)
    return {
        "protocol": made | measured_on(world),
        "scenes": share(sum(map(sum, fulfilled)), count * SCENES, independent=count)
        | {"by_place": [share(sum(place), count) for place in zip(*fulfilled, strict=True)]}
        | {"claims": shares_of_claims(scene for report in reports for scene in report.scenes)},
        "persistent": share(sum(report.same_objects and report.same_background for report in reports), count),
        "same_object": share(sum(report.same_objects for report in reports), count),
        "same_background": share(sum(report.same_background for report in reports), count),
        "whole": share(sum(report.fulfilled for report in reports), count),
    }
