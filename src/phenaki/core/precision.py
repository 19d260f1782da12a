"""Device and precision policy: float32 master weights, bfloat16 matrix products where they are faster."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def best_device() -> torch.device:
    """CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """The autocast region in which every forward pass of training and inference runs.

    "auto" is bfloat16 on CUDA and on CPUs with instructions for it (AMX, AVX512-BF16), float32 elsewhere. Losses,
    quantizers and softmax statistics stay in float32: the code that computes them casts.
    """
    use_bfloat16 = precision == "bfloat16" or (precision == "auto" and prefers_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_bfloat16)


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones on this device (measured: docs/log.md)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
