"""For how many unseen prompts all that the caption claims is to be seen."""

from __future__ import annotations

import time
from typing import Any

from phenaki.config import to_dict
from phenaki.data.shapes import Report, check
from phenaki.evaluate.generate import FRAMES, Advance, Model, batches, generate, random_numbers, side_by_side
from phenaki.evaluate.protocol import measured_on, unseen_world
from phenaki.evaluate.shares import share, shares_of_claims

KINDS = {"one_object": ("test", 1), "held_out_pairs": ("held_out", 1), "two_objects": ("test", 2)}
"""Split and number of objects; the colour-shape pairs of "held_out" are never seen in training."""
ALONE = 5  # clips made one at a time, to see how fast that is


def prompts(model: Model, count: int, seed: int, advance: Advance) -> dict[str, Any]:
    """Share of the first `count` prompts of each kind whose clips fulfil all claims, by the checker, on pixels alone.

    `claims`: share fulfilled of each kind of claim. `frames_per_second`: new frames made in a second, from the prompt
    to pixels (imports and loading apart), in batches and when clips are made one at a time.
    """
    found: dict[str, Any] = {}
    at_a_time, seconds = side_by_side(model), 0.0
    for kind, (split, objects) in KINDS.items():
        world = unseen_world(model.tokenizer, split, objects)
        captions = [world.caption(i) for i in range(count)]
        rng = random_numbers(model, seed)
        reports: list[Report] = []
        for batch in batches(captions, at_a_time):
            began = time.monotonic()
            clips = generate(model, [(caption,) for caption in batch], rng, advance)
            seconds += time.monotonic() - began
            reports += [check(clip, caption) for clip, caption in zip(clips, batch, strict=True)]
        fulfilled = share(sum(report.fulfilled for report in reports), count)
        drawn = {"split": split, "objects": objects}
        found[kind] = drawn | fulfilled | {"claims": shares_of_claims(reports)}
    began = time.monotonic()
    for caption in captions[:ALONE]:
        generate(model, [(caption,)], rng, advance=lambda _: None)
    alone = (time.monotonic() - began) / len(captions[:ALONE])
    speed = {"one_at_a_time": FRAMES / alone, "in_batches": FRAMES * count * len(KINDS) / seconds}
    protocol = {name: value for name, value in measured_on(world).items() if name not in drawn}
    made = {"prompts_of_each_kind": count, "seed": seed, "batch": at_a_time, "sampling": to_dict(model.sampling)}
    return {"protocol": protocol | made} | found | {"frames_per_second": speed}
