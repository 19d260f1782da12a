"""Milliseconds of each attention kernel at typical shapes, forward alone and with backward.

`python benchmarks/attention.py` prints the numbers behind `phenaki.nn.attention.attend`. Run it on an idle machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# name: (batch, heads, positions, head width), causal
SHAPES = {
    "space, 16 clips of 11 frames at 64 px": ((96, 2, 64, 64), False),
    "time, 16 clips of 11 frames at 64 px": ((1024, 2, 6, 64), True),
    "generator, 16 clips of 6 x 8 x 8": ((16, 4, 384, 64), False),
    "generator, 4 clips of 6 x 16 x 16": ((4, 8, 1536, 64), False),
}


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), float("-inf"))
    return scores.softmax(dim=-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def milliseconds(run: Callable[[], None], seconds: float = 1.0) -> float:
    run()
    times = []
    while sum(times) < seconds:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[len(times) // 2]


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; median milliseconds, forward / with backward")
    for name, (shape, causal) in SHAPES.items():
        print(name)
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v, gradient = (torch.randn(shape, dtype=dtype) for _ in range(4))
            for kernel in (plain, fused):

                def forward(kernel=kernel, q=q, k=k, v=v, causal=causal) -> None:
                    with torch.no_grad():
                        kernel(q, k, v, causal)

                def backward(kernel=kernel, q=q, k=k, v=v, gradient=gradient, causal=causal) -> None:
                    parts = [x.detach().requires_grad_() for x in (q, k, v)]
                    kernel(*parts, causal).backward(gradient)

                both = f"{milliseconds(forward):8.1f} / {milliseconds(backward):8.1f}"
                print(f"  {str(dtype).removeprefix('torch.'):9} {kernel.__name__:6} {both}")


if __name__ == "__main__":
    main()
