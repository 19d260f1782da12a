"""LPIPS (Zhang et al., arXiv 1801.03924): perceptual distance of two images, by weighted VGG16 features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError
from phenaki.core.weights import load_weights, read_tensors
from phenaki.nn.block import Block
from phenaki.perceptual.weights import find, sha256

_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # of VGG16: width in multiples of 64, number of convolutions
_MIN_SIZE = 2 ** (len(_STAGES) - 1)  # pixels; halved after each stage but the last
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of RGB in [-1, 1], as in training of the heads
_EPSILON = 1e-8

_VGG, _HEADS, _BOTH = "vgg16-397923af.pth", "vgg.pth", "lpips.safetensors"
_HELP = (
    "`phenaki weights get lpips` downloads both. Without a network, "
    f"get VGG16 from https://download.pytorch.org/models/{_VGG} and the heads of LPIPS from "
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth and put both files there "
    "under these names, or disable LPIPS (training: loss.lpips=0)"
)


class LPIPS(Block):
    """Per-frame distance: squared differences of unit-length VGG16 features of five layers, weighted by trained heads.

    Weight names are those of torchvision's vgg16 and of the published heads. `width`: channels of the first stage, 64
    as published. `files`: the weight files with their SHA-256.
    """

    dynamic_lengths = False  # inductor fails on convolutions of unknown size
    shift: Tensor
    scale: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, (factor, convolutions) in enumerate(_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.ReLU()]
                channels = factor * width
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{stage}", nn.ModuleDict({"model": head}))
        self.features = nn.Sequential(*layers)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)
        self.files: dict[str, str] = {}

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two videos float (B, 3, T, H, W) in [0, 1] of 16x16 pixels or more -> distances float32 (B, T).

        Raises PhenakiError for videos of other shapes.
        """
        if a.shape != b.shape or a.ndim != 5 or a.shape[1] != 3 or min(a.shape[3:]) < _MIN_SIZE:
            raise PhenakiError(
                f"LPIPS compares two videos (B, 3, T, H, W) of equal shape, at least {_MIN_SIZE}x{_MIN_SIZE} pixels, "
                f"not {tuple(a.shape)} and {tuple(b.shape)}"
            )
        pairs = zip(self._stages(a), self._stages(b), strict=True)
        distances = [self._weighted(stage, one, other) for stage, (one, other) in enumerate(pairs)]
        return torch.stack(distances).sum(0).view(a.shape[0], a.shape[2])

    def _stages(self, video: Tensor) -> Iterator[Tensor]:
        """Features (B T, C, h, w) after each stage, of unit length along C."""
        frames = video.float().movedim(2, 1).flatten(0, 1)
        x = (2 * frames - 1 - self.shift) / self.scale
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                yield _unit(x)
            x = layer(x)
        yield _unit(x)

    def _weighted(self, stage: int, one: Tensor, other: Tensor) -> Tensor:
        head = self.get_submodule(f"lin{stage}.model.1").weight  # (1, C, 1, 1)
        return (head * (one - other).square()).sum(1).mean((1, 2))


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(1, keepdim=True) + _EPSILON).sqrt()


def load_lpips(path: str | Path | None = None) -> LPIPS:
    """LPIPS with its trained weights, frozen, on the CPU.

    path: one file with all weights (.safetensors or .pth), or a folder with lpips.safetensors, or with
    vgg16-397923af.pth and vgg.pth; None: the cache, $PHENAKI_CACHE or ~/.cache/phenaki. Raises MissingWeights if the
    cache lacks them, PhenakiError if the path does or if the files are of another network.
    """
    files = find(path, ((_BOTH,), (_VGG, _HEADS)), _HELP)
    state = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    first = state.get("features.0.weight")
    module = LPIPS(width=64 if first is None else len(first))
    load_weights(module, state, " and ".join(f"'{file}'" for file in files))
    module.files = {file.name: sha256(file) for file in files}
    return module.eval().requires_grad_(False)
