"""Where the time of a sampling step goes.

`python benchmarks/profile_sampling.py` samples a clip as `benchmarks/maskgit.py` does, under torch's profiler, and
prints milliseconds per step and the percentage of each group:

attention        scores, softmax and the product with the values; in bfloat16 including the copies they make
matrix products  all linear layers, text and logits too
norms            of layers, queries and keys
activations      of the feed-forward networks
rest             of the network: rotary positions, sums, casts, copies
sampling         everything outside the network: guidance, sampling, sorting, masks

`--operations 20` lists the most expensive operations. `--trace trace.json` writes a trace for a viewer
(perfetto.dev). Run it on an idle machine.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from maskgit import STEPS, generator, precision, sampling
from torch.profiler import ProfilerActivity, profile, record_function

from phenaki.generators import MaskedTransformer
from phenaki.nn.attention import attend

NETWORK, SAMPLING, ATTENTION = "network", "sampling", "attention"
GROUPS = {"matrix products": {"aten::linear"}, "norms": {"aten::layer_norm"}, "activations": {"aten::gelu"}}


def labelled(label: str, function: Callable) -> Callable:
    def run(*arguments: Any, **named: Any) -> Any:
        with record_function(label):
            return function(*arguments, **named)

    return run


def regions(model: MaskedTransformer) -> ExitStack:
    """A context in which the network and its attention label their operations."""
    stack = ExitStack()
    for name in ("condition", "logits"):
        stack.enter_context(mock.patch.object(model, name, labelled(NETWORK, getattr(model, name))))
    stack.enter_context(mock.patch("phenaki.nn.attention.attend", labelled(ATTENTION, attend)))
    return stack


def group(event: Any) -> str:
    """The group of an operation, by its name and its parents."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    if NETWORK not in names:
        return SAMPLING
    if ATTENTION in names:
        return ATTENTION
    return next((label for label, operations in GROUPS.items() if operations & set(names)), "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--operations", type=int, default=0)
    parser.add_argument("--trace", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = generator()
    run = sampling(model, args.steps)
    with precision(args.dtype):
        run()
        with regions(model), profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
    spent: Counter[str] = Counter()
    for event in profiler.events():
        spent[group(event)] += event.self_cpu_time_total
    total = sum(spent.values())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.dtype}")
    for name, microseconds in spent.most_common():
        print(f"{name:16} {microseconds / 1000 / args.steps:8.1f} ms a step {100 * microseconds / total:5.1f} %")
    print(f"{'together':16} {total / 1000 / args.steps:8.1f} ms a step")
    if args.operations:
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=args.operations))
    if args.trace:
        profiler.export_chrome_trace(str(args.trace))


if __name__ == "__main__":
    main()
