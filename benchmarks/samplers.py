"""Rate of prompts that the videos of each sampler satisfy, verified by the checker from the pixels.

`python benchmarks/samplers.py shapes-64 own decoding.order=halton guidance.scale=1,guidance.scale_end=3 --prompts 200`
takes a model (a name or a folder) and settings: `own`, the model's own SamplingConfig, or overrides of it. Each setting
generates a clip for each of the same prompts. Rates have 95 % intervals (Wilson); since the prompts are the same, the
difference to the first setting over all kinds has a narrower, paired interval. Seconds are wall time from the prompt
through the checker, in batches.

It writes JSON and a table in Markdown after each kind of prompts, and resumes from there; settings may be added. The
prompts are not those of `phenaki evaluate`, which then measures the chosen setting.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from phenaki import Phenaki
from phenaki.core.config import override, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic
from phenaki.evaluation.generate import FRAMES, batch_size, score_videos
from phenaki.evaluation.protocol import provenance
from phenaki.evaluation.rates import success_rate
from phenaki.sampling import SamplingConfig
from phenaki.worlds.shapes.evaluation import ShapesEval

OWN = "own"
WORLD_SEED = 11  # neither that of a training run nor that of `phenaki evaluate`: what is chosen here is judged there


def sampling(model: Phenaki, setting: str) -> SamplingConfig:
    """The configuration that a setting names."""
    return model.sampling if setting == OWN else override(model.sampling, setting.split(","))


def measure(model: Phenaki, kind: str, prompts: int, seed: int) -> dict[str, Any]:
    """Make a clip for each of the first prompts of a kind, and check it."""
    world = ShapesEval(model.tokenizer.config.image_size, FRAMES, WORLD_SEED)
    told = [(prompt,) for prompt in world.prompts(kind, prompts)]
    began = time.monotonic()
    reports = score_videos(model, told, lambda clip, captions: world.check(clip, *captions), seed, lambda _: None)
    seconds = time.monotonic() - began
    fulfilled = [int(report.fulfilled) for report in reports]
    return success_rate(sum(fulfilled), prompts) | {"seconds_per_clip": seconds / prompts, "fulfilled": fulfilled}


def paired(ours: Sequence[int], theirs: Sequence[int]) -> tuple[float, float]:
    """Mean difference of two lists of outcomes for the same prompts, and half the width of its 95 % interval."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    return fmean(differences), 1.96 * math.sqrt(variance(differences) / len(differences))


def table(settings: dict[str, Any]) -> str:
    """Markdown: a row for each setting that was measured on all kinds."""
    header = ["setting", *(kind.replace("_", " ") for kind in ShapesEval.kinds), "all", "against the first", "s a clip"]
    rows = [header, ["---"] * len(header)]
    first: list[int] = []
    for name, found in settings.items():
        kinds = found["kinds"]
        if len(kinds) < len(ShapesEval.kinds):
            continue
        outcomes = [outcome for kind in ShapesEval.kinds for outcome in kinds[kind]["fulfilled"]]
        first = first or outcomes
        difference, half = (100 * value for value in paired(outcomes, first))
        against = "" if outcomes is first else f"{difference:+.1f} ± {half:.1f}"
        seconds = fmean(kinds[kind]["seconds_per_clip"] for kind in ShapesEval.kinds)
        together = success_rate(sum(outcomes), len(outcomes))
        rows.append(
            [
                f"`{name}`",
                *map(shown, [*(kinds[kind] for kind in ShapesEval.kinds), together]),
                against,
                f"{seconds:.2f}",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def shown(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['rate']:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def write(out: Path, figures: dict[str, Any]) -> None:
    with write_atomic(out, "w") as file:
        json.dump(figures, file)
    with write_atomic(out.with_suffix(".md"), "w") as file:
        file.write(table(figures["settings"]))


def begun(out: Path, protocol: dict[str, Any]) -> dict[str, Any]:
    """What `out` holds already, of the same protocol."""
    if not out.exists():
        return {"protocol": protocol, "settings": {}}
    figures = json.loads(out.read_text(encoding="utf-8"))
    differing = [key for key, value in protocol.items() if figures["protocol"].get(key) != value]
    if differing:
        raise PhenakiError(f"'{out}' was measured with another {' and '.join(differing)}: name another file")
    return figures


def run(given: argparse.Namespace) -> None:
    model = Phenaki.from_pretrained(given.model)
    samplings = {setting: sampling(model, setting) for setting in given.settings}
    machine = provenance(model)
    made = {"world_seed": WORLD_SEED, "prompts_of_each_kind": given.prompts, "seed": given.seed}
    figures = begun(given.out, {"model": machine.pop("model"), "batch": batch_size(model)} | made)
    for setting, model.sampling in samplings.items():
        values = to_dict(model.sampling)
        found = figures["settings"].setdefault(setting, {"sampling": values, "kinds": {}} | machine)
        if found["sampling"] != values:
            raise PhenakiError(f"'{setting}' in '{given.out}' was measured with other values: name another file")
        for kind in ShapesEval.kinds:
            if kind not in found["kinds"]:
                found["kinds"][kind] = measure(model, kind, given.prompts, given.seed)
                write(given.out, figures)
                print(f"{setting}, {kind}: {shown(found['kinds'][kind])}", flush=True)
    print(table(figures["settings"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a folder")
    parser.add_argument("settings", nargs="+", help="'own', or changes: decoding.steps=24,decoding.order=halton")
    parser.add_argument("--prompts", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("samplers.json"))
    try:
        run(parser.parse_args())
    except PhenakiError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
