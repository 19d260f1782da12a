"""For how many unseen prompts all that the caption claims is to be seen."""

from __future__ import annotations

import time
from typing import Any

from phenaki.core.config import to_dict
from phenaki.evaluation.generate import (
    FRAMES,
    Advance,
    Model,
    batches,
    generate,
    random_numbers,
    side_by_side,
    verdicts,
)
from phenaki.evaluation.protocol import measured_on, unseen_world
from phenaki.evaluation.shares import share, shares_of_claims
from phenaki.worlds.shapes import check

KINDS = {"one_object": ("test", 1), "held_out_pairs": ("held_out", 1), "two_objects": ("test", 2)}
"""Split and number of objects; the colour-shape pairs of "held_out" are never seen in training."""
ALONE = 3  # clips made one at a time, to see how fast that is


def prompts(model: Model, count: int, seed: int, advance: Advance) -> dict[str, Any]:
    """Share of the first `count` prompts of each kind whose clips fulfil all claims, by the checker, on pixels alone.

    `claims`: share fulfilled of each kind of claim. `frames_per_second`: new frames made in a second, from the prompt
    to pixels (imports and loading apart), in batches, checks included, and when clips are made one by one.
    """
    worlds = {kind: unseen_world(model.tokenizer, split, objects) for kind, (split, objects) in KINDS.items()}
    told = [(world.caption(i),) for world in worlds.values() for i in range(count)]
    began = time.monotonic()
    reports = verdicts(model, told, lambda clip, captions: check(clip, *captions), seed, advance)
    speed = {"in_batches": FRAMES * len(told) / (time.monotonic() - began)}
    began = time.monotonic()
    for story in told[-ALONE:]:
        generate(model, [story], random_numbers(model, seed), advance=lambda _: None)
    speed["one_at_a_time"] = FRAMES * len(told[-ALONE:]) / (time.monotonic() - began)
    found = {}
    for (kind, (split, objects)), of_kind in zip(KINDS.items(), batches(reports, count), strict=True):
        fulfilled = share(sum(report.fulfilled for report in of_kind), count)
        found[kind] = {"split": split, "objects": objects} | fulfilled | {"claims": shares_of_claims(of_kind)}
    world = measured_on(worlds["one_object"])
    protocol = {name: value for name, value in world.items() if name not in ("split", "objects")}
    made = {"prompts_of_each_kind": count, "seed": seed, "batch": side_by_side(model)}
    made["sampling"] = to_dict(model.sampling)
    return {"protocol": protocol | made} | found | {"frames_per_second": speed}
