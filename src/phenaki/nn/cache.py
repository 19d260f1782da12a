"""Keys and values of earlier latent frames, for attention under a sliding window.

Shapes: B batch, H heads, n latent frames, S positions of a latent frame, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]


class KVCache:
    """Per layer the keys and values of the last `size` latent frames, and of the first `sinks` of all.

    Keys are kept without rotation in time, so that their positions can be relative to the frame that attends to them.
    The state is fixed in size once the window is full. frames: latent frames committed so far. rotated: what attention
    made of the keys and values of each layer, kept until the next `append`.
    """

    def __init__(self, size: int, sinks: int = 0) -> None:
        self.size, self.sinks, self.frames = size, sinks, 0
        self.rotated: dict[int, KeysValues] = {}
        self._recent: list[KeysValues] = []  # of each layer, (B, H, n, S, K), the oldest latent frame first
        self._first: list[KeysValues] = []

    def append(self, layers: Sequence[KeysValues]) -> None:
        """Add a latent frame: keys and values (B, H, S, K) of each layer."""
        if self.frames < self.sinks:
            self._first = _extended(self._first, layers, self.sinks)
        if self.size:
            self._recent = _extended(self._recent, layers, self.size)
        self.frames += 1
        self.rotated = {}

    def recent(self, layer: int) -> KeysValues | None:
        """Keys and values (B, H, n, S, K) of a layer, the oldest latent frame first; None if there are none."""
        return self._recent[layer] if self._recent else None

    def sink(self, layer: int) -> KeysValues | None:
        """Those of the first latent frames that the window has left behind; None if there are none."""
        behind = min(self.sinks, self.frames - min(self.frames, self.size))
        return tuple(part[:, :, :behind] for part in self._first[layer]) if behind else None

    def narrow(self, batch: int) -> KVCache:
        """A view of the first `batch` samples, until the next `append`."""
        view = KVCache(self.size, self.sinks)
        view.frames = self.frames
        view.rotated = {layer: (k[:batch], v[:batch]) for layer, (k, v) in self.rotated.items()}
        for name in ("_recent", "_first"):
            setattr(view, name, [(k[:batch], v[:batch]) for k, v in getattr(self, name)])
        return view

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` makes an equal cache."""
        tensors = {"frames": torch.tensor(self.frames)}
        for name, held in (("recent", self._recent), ("first", self._first)):
            for layer, (k, v) in enumerate(held):
                tensors |= {f"{name}.{layer}.keys": k, f"{name}.{layer}.values": v}
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        self.frames, self.rotated = int(state["frames"]), {}
        self._recent, self._first = ([*_layers(state, name)] for name in ("recent", "first"))


def _extended(held: list[KeysValues], layers: Sequence[KeysValues], size: int) -> list[KeysValues]:
    """The last `size` latent frames of those held and one more."""
    new = [tuple(part.unsqueeze(2) for part in layer) for layer in layers]
    if not held:
        return new
    start = max(0, held[0][0].shape[2] + 1 - size)
    return [
        tuple(torch.cat((old[:, :, start:], last), dim=2) for old, last in zip(*pairs, strict=True))
        for pairs in zip(held, new, strict=True)
    ]


def _layers(state: dict[str, Tensor], name: str) -> list[KeysValues]:
    layers: list[KeysValues] = []
    while (key := f"{name}.{len(layers)}") + ".keys" in state:
        layers.append((state[f"{key}.keys"], state[f"{key}.values"]))
    return layers
