"""Clips and tensors.

A clip is uint8 (T, H, W, 3), RGB. A video, as models take it, is float32 (B, 3, T, H, W) in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phenaki.core.errors import PhenakiError

if TYPE_CHECKING:
    from torch import Tensor


Frames = NDArray[np.uint8]


def to_uint8(video: Tensor) -> Frames:
    """Video (B, 3, T, H, W) or (3, T, H, W), clamped to [0, 1] and rounded to uint8 (B, T, H, W, 3) or (T, H, W, 3)."""
    if video.ndim not in (4, 5) or video.shape[-4] != 3:
        raise PhenakiError(f"A video has the shape (B, 3, T, H, W) or (3, T, H, W), not {tuple(video.shape)}.")
    import torch  # here, so that processes which only read and write files start quickly

    levels = video.detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return levels.movedim(-4, -1).contiguous().numpy()


def to_float(clips: Frames | Tensor) -> Tensor:
    """Clips uint8 (T, H, W, 3) or (B, T, H, W, 3) as video float32 (B, 3, T, H, W) in [0, 1], on the clips' device."""
    import torch

    clips = torch.as_tensor(clips)
    if clips.ndim not in (4, 5) or clips.shape[-1] != 3 or clips.dtype != torch.uint8:
        raise PhenakiError(
            f"Clips are uint8 of the shape (T, H, W, 3) or (B, T, H, W, 3), not {clips.dtype} {tuple(clips.shape)}."
        )
    batch = clips if clips.ndim == 5 else clips[None]
    return batch.movedim(-1, 1).contiguous().float().div_(255)
