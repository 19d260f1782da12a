"""Frozen perceptual networks, for losses and evaluation.

    lpips = load_lpips()              # or a file, or a folder
    lpips(a, b)                       # videos float (B, 3, T, H, W) in [0, 1] -> distances (B, T), differentiable
    i3d = load_i3d()
    i3d.features(video)               # of a layer by name, (B, C, t, 14, 14), differentiable
    i3d(video)                        # logits (B, 400), for FVD

Both are loaded in evaluation mode on the CPU, without gradients. Neither is downloaded: `MissingWeights` names the
files, where to get them and where to put them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from phenaki.perceptual.i3d import I3D, load_i3d
from phenaki.perceptual.lpips import LPIPS, load_lpips
from phenaki.perceptual.weights import MissingWeights


class PerceptualNetworks(NamedTuple):
    """Frozen networks; the loss or metric of one that is None is skipped."""

    lpips: LPIPS | None = None
    i3d: I3D | None = None

    def to(self, device: torch.device) -> PerceptualNetworks:
        return PerceptualNetworks(*(network if network is None else network.to(device) for network in self))

    @property
    def protocol(self) -> dict[str, dict[str, str]]:
        """The weight files of each network in use, with their SHA-256."""
        return {name: network.files for name, network in self._asdict().items() if network is not None}
