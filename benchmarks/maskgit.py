"""Our generators and that of `phenaki-pytorch` at one size: sampling a clip in 18 guided steps, a training step.

`pip install phenaki-pytorch`, then `python benchmarks/maskgit.py` prints, for a grid of 6 x 16 x 16 ids of 8192 codes,
6 layers of width 512 with 8 heads and text of width 768 (36 M parameters), batch 1, in float32 and bfloat16: seconds of
both (the fastest repeat), their ratio, and the peak memory of each above that of the model as built. Sampling is from
text embeddings to ids, without the first stage. It also prints the fraction of the machine's rate of bfloat16 matrix
products that our sampling reaches, its FLOPs as counted by torch. Each measurement is a process of its own. Run it on
an idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from measuring import COLUMNS, fastest, measure_both, peak_memory, versions
from phenaki_pytorch_models import build_phenaki
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from phenaki.conditioning import Text
from phenaki.core.precision import autocast
from phenaki.generators import CausalTransformer, CausalTransformerSizes, MaskedTransformer, MaskedTransformerSizes
from phenaki.generators.losses import masked_cross_entropy
from phenaki.generators.masking import random_mask
from phenaki.sampling import DecodingConfig, cfg_conditions, cfg_logits_fns, decode
from phenaki.tokenizers import TokenizerSpec

GRID, CODES = (6, 16, 16), 8192
WIDTH, LAYERS, HEADS = 512, 6, 8
TEXT_WIDTH, WORDS = 768, 32  # of T5's base model
STEPS, GUIDANCE = 18, 3.0
MASKED = 0.6366  # mean fraction of the ids that the cosine schedule masks: 2 / pi
BARS = {("sample", "float32"): 5, ("sample", "bfloat16"): 12, ("train", "float32"): 2, ("train", "bfloat16"): 4}
BARS |= {("causal", "float32"): 16, ("causal", "bfloat16"): 12}
PEAK_BAR = 0.4

Run = Callable[[], object]


def precision(dtype: str) -> Any:
    """A context in which sampling runs in this precision, rather than the machine's fastest."""
    return mock.patch("phenaki.core.precision.prefers_bfloat16", return_value=dtype == "bfloat16")


def generator(grid: tuple[int, int, int] = GRID, causal: bool = False) -> MaskedTransformer:
    t, h, w = grid
    spec = TokenizerSpec(CODES, patch=(2, 8, 8), image_size=(8 * h, 8 * w), fps=8)
    if causal:
        return CausalTransformer(CausalTransformerSizes(2 * t - 1, WIDTH, LAYERS, window=t).config(spec, TEXT_WIDTH))
    return MaskedTransformer(MaskedTransformerSizes(2 * t - 1, WIDTH, LAYERS).config(spec, TEXT_WIDTH))


def words() -> Text:
    return Text(torch.randn(1, WORDS, TEXT_WIDTH), torch.ones(1, WORDS, dtype=torch.bool))


def sampling(model: MaskedTransformer, steps: int = STEPS, grid: tuple[int, int, int] = GRID) -> Run:
    """A function that samples the ids of a clip as `Phenaki.generate` does."""
    config, text = DecodingConfig(steps=steps), words()
    ids, known = torch.zeros(1, *grid, dtype=torch.long), torch.zeros(1, *grid, dtype=torch.bool)

    def sample() -> Tensor:
        rng = torch.Generator().manual_seed(0)
        with autocast(ids.device):
            logits_fns = cfg_logits_fns(model, cfg_conditions(model, text, with_null=True), [GUIDANCE] * steps)
            return decode(logits_fns, ids, known, model.mask_id, config, rng)

    return sample


def sampling_causal(model: CausalTransformer, steps: int = STEPS) -> Run:
    """A function that samples the ids of a clip as `CausalRollout` does."""
    frames, *grid = GRID
    config, text = DecodingConfig(steps=steps // frames), words()
    ids, known = torch.zeros(1, 1, *grid, dtype=torch.long), torch.zeros(1, 1, *grid, dtype=torch.bool)

    def sample() -> Tensor:
        rng, cache, clip = torch.Generator().manual_seed(0), model.make_cache(), []
        with autocast(ids.device):
            conditions = cfg_conditions(model, text, with_null=True)
            for _ in range(frames):
                logits_fns = cfg_logits_fns(model, conditions, [GUIDANCE] * config.steps, cache)
                clip.append(decode(logits_fns, ids, known, model.mask_id, config, rng))
                model.commit(clip[-1].repeat(2, 1, 1, 1), conditions[1], cache, defer=True)
        return torch.cat(clip, dim=1)

    return sample


def ours(task: str, dtype: str, steps: int) -> tuple[nn.Module, Run]:
    model = generator(causal=task == "causal")
    if task == "causal":
        return model, sampling_causal(model, steps)
    ids, text, rng = torch.randint(CODES, (1, *GRID)), words(), torch.Generator().manual_seed(0)
    count = torch.tensor([round(MASKED * ids.numel())])

    def loss() -> Tensor:
        """Of an update of `train_generator`."""
        masked = random_mask(torch.ones_like(ids, dtype=torch.bool), count, rng)
        where = masked.flatten().nonzero().squeeze(1)
        with autocast(ids.device, dtype):
            logits = model(ids.masked_fill(masked, model.mask_id), model.condition(text), where)
        return masked_cross_entropy(logits, ids[masked], torch.ones(len(logits)), label_smoothing=0.0)

    return model, loss if task == "train" else sampling(model, steps)


def theirs(task: str, dtype: str, steps: int) -> tuple[nn.Module, Run]:
    model = build_phenaki(WIDTH, LAYERS, WIDTH // HEADS, CODES, GRID, TEXT_WIDTH, steps=steps)
    ids, text = torch.randint(CODES, (1, *GRID)), words().embeddings
    model.encode_texts = lambda texts, output_device: text
    model.cvivit.decode_from_codebook_indices = lambda found: found

    def sample() -> Tensor:
        with autocast(ids.device, dtype):
            return model.sample(texts="a text", num_frames=2 * GRID[0] - 1, cond_scale=GUIDANCE)

    def loss() -> Tensor:
        with autocast(ids.device, dtype):
            return model(video_codebook_ids=ids, text_embeds=text)

    return model.maskgit, loss if task == "train" else sample


def measure(library: str, task: str, dtype: str, steps: int, repeats: int) -> dict[str, float]:
    """Seconds of the fastest repeat, and MiB above those of the model as built; of our sampling, its operations too."""
    torch.manual_seed(0)
    model, run = {"ours": ours, "theirs": theirs}[library](task, dtype, steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=library == "ours")  # as each trains

    def update() -> None:
        run().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    built = peak_memory()
    with precision(dtype):
        seconds = fastest(update if task == "train" else run, repeats)
    found = {
        "seconds": seconds,
        "memory": peak_memory() - built,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if (library, task, dtype) == ("ours", "sample", "bfloat16"):
        found["flops"], found["rate"] = flops(run), matrix_rate()
    return found


def flops(run: Run) -> int:
    with FlopCounterMode(display=False) as counter, precision("bfloat16"):
        run()  # where attention is matrix products that the counter sees
    return counter.get_total_flops()


def matrix_rate(size: int = 2048) -> float:
    """The machine's peak in practice: FLOP a second of a bfloat16 matrix product."""
    a, b = torch.randn(2, size, size, dtype=torch.bfloat16).unbind()
    return 2 * size**3 / fastest(lambda: F.linear(a, b), repeats=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--tasks", nargs="+", choices=("sample", "causal", "train"), default=["sample", "causal", "train"]
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of sampling")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        library, task, dtype, *numbers = args.measure
        print(json.dumps(measure(library, task, dtype, *map(int, numbers))))
        return
    print(versions())
    print(f"task    dtype   {COLUMNS}   bar of the ratio")
    for task in args.tasks:
        for dtype in ("float32", "bfloat16"):
            one, other, columns = measure_both(__file__, task, dtype, args.steps, args.repeats)
            print(f"{task:7} {dtype:8} {columns}   {BARS[task, dtype]}", flush=True)
            if "flops" in one:
                reached = one["flops"] / one["seconds"]
                print(
                    f"our sampling: {one['flops'] / 1e12:.2f} TFLOP, {reached / 1e12:.3f} TFLOP/s of"
                    f" {one['rate'] / 1e12:.3f}, {100 * reached / one['rate']:.0f} % (bar {100 * PEAK_BAR:.0f} %)"
                )
    print(f"parameters: ours {one['parameters'] / 1e6:.1f} M, theirs {other['parameters'] / 1e6:.1f} M")


if __name__ == "__main__":
    main()
