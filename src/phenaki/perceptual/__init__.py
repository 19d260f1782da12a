"""Frozen networks that judge pictures and clips: guests of losses and of the evaluation, never trained.

    lpips = load_lpips()              # or a file, or a folder
    lpips(a, b)                       # videos float (B, 3, T, H, W) in [0, 1] -> distances (B, T), differentiable in a
    i3d = load_i3d()
    i3d.features(video)               # of a layer by name, (B, C, t, 14, 14), differentiable
    i3d(video)                        # logits (B, 400), of which FVD takes the statistics

Both come in evaluation mode on the CPU, without gradients of their own. Neither is ever downloaded: `MissingWeights`
says what to get from where, and where to put it.
"""

from phenaki.perceptual.i3d import I3D, load_i3d
from phenaki.perceptual.lpips import LPIPS, load_lpips
from phenaki.perceptual.networks import PerceptualNetworks
from phenaki.perceptual.weights import MissingWeights

__all__ = ["I3D", "LPIPS", "PerceptualNetworks", "MissingWeights", "load_i3d", "load_lpips"]
