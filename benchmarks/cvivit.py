"""Our C-ViViT and that of `phenaki-pytorch` at the paper's sizes: encode, decode, a step without perceptual losses.

`pip install phenaki-pytorch`, then `python benchmarks/cvivit.py` prints for 11 x 128 x 128 pixels, batch 1 and 4,
float32 and bfloat16: seconds of both (the fastest repeat), their ratio, and the peak memory of each above that of the
model as built. Each measurement is a process of its own. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from measuring import COLUMNS, fastest, measure_both, peak_memory, versions
from phenaki_pytorch_models import build_cvivit
from torch import Tensor, nn

TASKS = ("encode", "decode", "train")
BARS = {"encode": 1.5, "decode": 1.5, "train": 2.0}
FRAMES, SIZE = 11, 128
WIDTH, LAYERS, HEADS, CODES = 512, 4, 8, 8192  # of the paper (table 6)


def ours(task: str, video: Tensor) -> tuple[nn.Module, Callable[[], object]]:
    from phenaki.tokenizers import CViViT, CViViTConfig
    from phenaki.tokenizers.losses import TokenizerLossConfig, code_losses, pixel_losses

    model = CViViT(CViViTConfig())
    ids = torch.zeros((video.shape[0], *model.grid(*video.shape[2:])), dtype=torch.long)
    loss = TokenizerLossConfig()

    def encode() -> Tensor:
        return model.quantizer(model.encode_latents(video)).ids

    def decode() -> Tensor:
        return model.decode_latents(model.quantizer.indices_to_latents(ids))

    def train() -> Tensor:
        out = model(video)
        return sum((pixel_losses(out.video, video, loss) | code_losses(out, video, model, loss)).values())

    return model, {"encode": encode, "decode": decode, "train": train}[task]


def theirs(task: str, video: Tensor) -> tuple[nn.Module, Callable[[], object]]:
    model = build_cvivit(WIDTH, LAYERS, WIDTH // HEADS, CODES, SIZE, lookup_free_quantization=False)
    ids = torch.zeros((video.shape[0], 6, 16, 16), dtype=torch.long)

    def encode() -> Tensor:
        return model(video, return_only_codebook_ids=True)

    def decode() -> Tensor:
        return model.decode_from_codebook_indices(ids)

    def train() -> Tensor:
        return model(video)

    return model, {"encode": encode, "decode": decode, "train": train}[task]


def measure(library: str, task: str, batch: int, dtype: str, repeats: int) -> dict[str, float]:
    """Seconds of the fastest repeat, MiB of peak memory above that of the model as built, parameters."""
    torch.manual_seed(0)
    video = torch.rand(batch, 3, FRAMES, SIZE, SIZE)
    model, forward = {"ours": ours, "theirs": theirs}[library](task, video)
    model.train(task == "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        with torch.set_grad_enabled(task == "train"):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                out = forward()
            if task == "train":
                out.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                optimizer.step()
                optimizer.zero_grad()

    built = peak_memory()
    seconds = fastest(run, repeats)
    parameters = sum(p.numel() for p in model.parameters())
    return {"seconds": seconds, "memory": peak_memory() - built, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        library, task, batch, dtype, repeats = args.measure
        print(json.dumps(measure(library, task, int(batch), dtype, int(repeats))))
        return
    print(versions())
    print(f"task    batch  dtype   {COLUMNS}   bar of the ratio")
    for task in TASKS:
        for batch in args.batches:
            for dtype in ("float32", "bfloat16"):
                one, other, columns = measure_both(__file__, task, batch, dtype, args.repeats)
                print(f"{task:7} {batch:5}  {dtype:8} {columns}   {BARS[task]}", flush=True)
    print(f"parameters: ours {one['parameters'] / 1e6:.1f} M, theirs {other['parameters'] / 1e6:.1f} M")


if __name__ == "__main__":
    main()
