"""What a sampling step costs, in time and memory, as the number of tokens grows from 256 to 12,288.

`python benchmarks/tokens_cost.py --out tokens_cost.json` samples clips of 1 to 48 latent frames of 16 x 16 ids, with
guidance, by the model of `benchmarks/maskgit.py`, each length in a process of its own. It writes seconds per step (the
fastest repeat) and the memory of sampling above that of the model as built (Linux) as JSON, as a table in Markdown,
`tokens_cost.md`, and as plots with logarithmic axes, `tokens_cost.png`. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from maskgit import generator, precision, sampling
from measuring import extra_memory, fastest, measure_apart
from plots import plot

from phenaki.media.writer import write_image

LATENT_FRAMES = (1, 2, 4, 6, 12, 24, 48)
STEPS = 2  # of a sampling: in the first all ids are masked, in the second two thirds of them


def measure(latent_frames: int, dtype: str, repeats: int) -> dict[str, float]:
    """Seconds of a step, MiB."""
    torch.manual_seed(0)
    grid = (latent_frames, 16, 16)
    model = generator(grid)
    run = sampling(model, STEPS, grid)
    with precision(dtype):
        memory, seconds = extra_memory(run), fastest(run, repeats) / STEPS
    return {"tokens": 256 * latent_frames, "seconds": seconds, "memory": memory}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown."""
    header = ["tokens", *(f"{dtype}, {unit}" for dtype in found for unit in ("s a step", "MiB", "KiB a token"))]
    rows = [header, ["---:"] * len(header)]
    for points in zip(*found.values(), strict=True):
        cells = (
            (f"{point['seconds']:.3f}", f"{point['memory']:.0f}", f"{1024 * point['memory'] / point['tokens']:.0f}")
            for point in points
        )
        rows.append([f"{points[0]['tokens']:,}", *(cell for side in cells for cell in side)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def picture(found: dict[str, list[dict[str, float]]]) -> np.ndarray:
    """Seconds and memory side by side."""
    plots = []
    for key, title in (("seconds", "seconds a step"), ("memory", "MiB")):
        curves = {dtype: [(point["tokens"], point[key]) for point in points] for dtype, points in found.items()}
        plots.append(np.asarray(plot(title, curves, "tokens", logarithmic="xy")))
    return np.concatenate(plots, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent-frames", type=int, nargs="+", default=LATENT_FRAMES)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("tokens_cost.json"))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        latent_frames, dtype, repeats = args.measure
        print(json.dumps(measure(int(latent_frames), dtype, int(repeats))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    found: dict[str, list[dict[str, float]]] = {}
    for dtype in args.dtypes:
        for latent_frames in args.latent_frames:
            point = measure_apart(__file__, latent_frames, dtype, args.repeats)
            print(
                f"{dtype:9} {point['tokens']:7,} tokens {point['seconds']:8.3f} s {point['memory']:8.0f} MiB",
                flush=True,
            )
            found.setdefault(dtype, []).append(point)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(found))
    write_image(args.out.with_suffix(".png"), picture(found))


if __name__ == "__main__":
    main()
