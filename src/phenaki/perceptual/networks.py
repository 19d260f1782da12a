"""The perceptual networks of a loss or an evaluation, together."""

from __future__ import annotations

from typing import NamedTuple

import torch

from phenaki.perceptual.i3d import I3D
from phenaki.perceptual.lpips import LPIPS


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
