"""Seconds and memory of a step of each quantizer, forward, backward and learning, and of vector-quantize-pytorch.

`python benchmarks/quantizers.py` quantizes the latents of 16 clips of 11 x 128 x 128, each quantizer in a process of
its own. Time is the median of the steps after the first, and that of the first, in which k-means starts.
Memory is the peak of the process above that before the first step. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median

import torch
import vector_quantize_pytorch
from measuring import measure_apart, peak_memory
from torch import Tensor

from phenaki.tokenizers.quantizers import QuantizerConfig, build_quantizer

LATENTS, WIDTH, CODES, CODE_DIM = 24_576, 512, 8192, 32
LEVELS = (8, 8, 8, 16)
COMMITMENT = QuantizerConfig().commitment
THEIRS = "vector-quantize-pytorch"

Step = Callable[[Tensor], None]


def ours(**options) -> Step:
    """A step of one of our quantizers, with all that the training calls."""
    quantizer = build_quantizer(QuantizerConfig(**options), WIDTH)
    rng = torch.Generator().manual_seed(0)

    def step(latents: Tensor) -> None:
        quantized = quantizer(latents)
        (quantized.latents.square().mean() + sum(quantizer.losses(quantized).values())).backward()
        quantizer.update(quantizer.statistics(quantized), quantized, rng)

    return step


def theirs(kind: str, **options) -> Step:
    """A step of one of theirs, which learns its codes in the forward pass."""
    quantizer = getattr(vector_quantize_pytorch, kind)(dim=WIDTH, **options)

    def step(latents: Tensor) -> None:
        quantized, _, *loss = quantizer(latents[None])
        (quantized.square().mean() + sum(loss)).backward()

    return step


def our_codebook(**options) -> Step:
    return ours(kind="codebook", codebook_size=CODES, code_dim=CODE_DIM, **options)


def their_codebook(**options) -> Step:
    sizes = {"codebook_size": CODES, "codebook_dim": CODE_DIM, "use_cosine_sim": True, "rotation_trick": False}
    return theirs("VectorQuantize", commitment_weight=COMMITMENT, threshold_ema_dead_code=1, **sizes, **options)


def their_lookup_free(codes: int) -> Step:
    return theirs("LFQ", codebook_size=codes, commitment_loss_weight=COMMITMENT)


# name: ours, theirs. They have no codes of unit length that learn by gradients.
QUANTIZERS: dict[str, tuple[Callable[[], Step], Callable[[], Step]]] = {
    "codebook, gradients": (our_codebook, their_codebook),
    "codebook, averages": (lambda: our_codebook(update="ema"), their_codebook),
    "the same, k-means start": (
        lambda: our_codebook(update="ema", init="kmeans"),
        lambda: their_codebook(kmeans_init=True),
    ),
    "lookup-free": (lambda: ours(kind="lookup_free", codebook_size=CODES), lambda: their_lookup_free(CODES)),
    "finite scalar": (lambda: ours(levels=LEVELS), lambda: theirs("FSQ", levels=LEVELS, preserve_symmetry=True)),
}


def measure(make: Callable[[], Step], steps: int) -> dict[str, float]:
    """Seconds of the first step and of the median one after it, and GB."""
    torch.manual_seed(0)
    step, latents = make(), torch.randn(LATENTS, WIDTH, requires_grad=True)
    held, times = peak_memory(), []
    for _ in range(1 + steps):
        began = time.perf_counter()
        step(latents)
        times.append(time.perf_counter() - began)
    return {"first": times[0], "step": median(times[1:]), "memory": (peak_memory() - held) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, side, steps = args.measure
        print(json.dumps(measure(QUANTIZERS[name][int(side)], int(steps))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {THEIRS} {version(THEIRS)}")
    print(
        f"{LATENTS:,} latents of width {WIDTH}, {CODES} codes; seconds a step (the first), GiB: ours | theirs | ratios"
    )
    for name in QUANTIZERS:
        sides = [measure_apart(__file__, name, side, args.steps) for side in (0, 1)]
        shown = [f"{side['step']:6.2f} ({side['first']:5.2f}) {side['memory']:5.2f} GiB" for side in sides]
        faster, smaller = (sides[1][key] / sides[0][key] for key in ("step", "memory"))
        print(f"{name:24} {' | '.join(shown)} | {faster:4.1f}x faster, {1 / smaller:.2f}x the memory", flush=True)


if __name__ == "__main__":
    main()
