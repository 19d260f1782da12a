"""`python -m fuzz --count 10000`: all surfaces, with a table of how they ended; exit code 1 if the rule was broken.

MiB is the most memory so far, above that of the first input.
`--surface NAME --first N --count 1` runs an input again, with the same `--seed`.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from fuzz.arguments import Arguments
from fuzz.files import CheckpointFiles, Datasets, Media, Models, Records, Robots, Shards
from fuzz.guard import Verdict, judge, memory_taken
from fuzz.played import Messages, Replays
from fuzz.surface import Surface
from fuzz.words import CommandLines, Configs, Overrides, Prompts

SURFACES: tuple[type[Surface], ...] = (
    *(Media, Shards, Datasets, Robots, Models, CheckpointFiles, Records),
    *(Configs, Overrides, Prompts, CommandLines, Arguments, Messages, Replays),
)


def run(surface: Surface, seed: int, first: int, count: int) -> list[tuple[str, Verdict]]:
    """The verdicts of a surface's inputs, with what they were; a function of the seed and their numbers."""
    ended = []
    for number in range(first, first + count):
        case = surface.case(Random(f"{seed}/{surface.name}/{number}"))
        verdict = judge(case.run, surface.folder)
        ended.append((f"{surface.name} {number}: {case.description}", verdict))
        if verdict.kind == "fault":
            print(f"\n{ended[-1][0]}\n{verdict.text}", flush=True)
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--count", type=int, default=10_000, help="of all inputs, or of the surface's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--surface", choices=[kind.name for kind in SURFACES])
    args = parser.parse_args()
    totals: collections.Counter[str] = collections.Counter()
    total_weight = sum(kind.weight for kind in SURFACES)
    header = f"{'surface':<12}{'inputs':>8}{'results':>9}{'sentences':>11}{'faults':>8}"
    print(f"{header}{'seconds':>9}{'MiB':>7}", flush=True)
    for kind in SURFACES:
        if args.surface not in (None, kind.name):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="phenaki-fuzz-") as folder:
            count = args.count if args.surface else round(args.count * kind.weight / total_weight)
            ended = run(kind(Path(folder).resolve()), args.seed, args.first, count)
        counts = collections.Counter(verdict.kind for _, verdict in ended)
        totals += counts
        columns = f"{len(ended):>8}{counts['result']:>9}{counts['sentence']:>11}{counts['fault']:>8}"
        print(f"{kind.name:<12}{columns}{time.monotonic() - began:>9.0f}{memory_taken() >> 20:>7}", flush=True)
    print(f"{'all':<12}{totals.total():>8}{totals['result']:>9}{totals['sentence']:>11}{totals['fault']:>8}")
    return 1 if totals["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
