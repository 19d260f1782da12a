"""The networks that a loss or an evaluation asks, together."""

from __future__ import annotations

from typing import NamedTuple

import torch

from phenaki.perceptual.i3d import I3D
from phenaki.perceptual.lpips import LPIPS


class PerceptualNetworks(NamedTuple):
    """Frozen networks that judge beside the pixels. None: not asked, so that its loss or figure is left out."""

    lpips: LPIPS | None = None
    i3d: I3D | None = None

    def to(self, device: torch.device) -> PerceptualNetworks:
        """The same ones, on the device."""
        return PerceptualNetworks(*(network if network is None else network.to(device) for network in self))

    @property
    def protocol(self) -> dict[str, dict[str, str]]:
        """Of those that are asked: the files of their weights, with the SHA-256."""
        return {name: network.files for name, network in self._asdict().items() if network is not None}
