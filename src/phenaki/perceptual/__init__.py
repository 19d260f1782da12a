"""Frozen perceptual networks, for losses and evaluation.

    lpips = load_lpips()              # or a file, or a folder
    lpips(a, b)                       # videos float (B, 3, T, H, W) in [0, 1] -> distances (B, T), differentiable
    i3d = load_i3d()
    i3d.features(video)               # of a layer by name, (B, C, t, 14, 14), differentiable
    i3d(video)                        # logits (B, 400), for FVD

Both are loaded in evaluation mode on the CPU, without gradients. Neither is downloaded: `MissingWeights` names the
files, where to get them and where to put them.
"""

from phenaki.perceptual.i3d import I3D, load_i3d
from phenaki.perceptual.lpips import LPIPS, load_lpips
from phenaki.perceptual.networks import PerceptualNetworks
from phenaki.perceptual.weights import MissingWeights
