"""Keys and values of earlier latent frames, for attention under a sliding window.

Shapes: B batch, H heads, S positions of a latent frame, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]


class KVCache:
    """Per layer the keys and values (B, H, S, K) of the last `size` latent frames, and of the first `sinks` of all.

    Keys are kept without rotation in time, so that their positions can be relative to the frame that attends to them.
    The state is fixed in size once the window is full. frames: latent frames committed so far. rotated: what attention
    made of the keys and values of each layer, kept until the next `append`.
    """

    def __init__(self, size: int, sinks: int = 0) -> None:
        self.size, self.sinks, self.frames = size, sinks, 0
        self.rotated: dict[int, KeysValues] = {}
        self._recent: list[list[KeysValues]] = []  # latent frames, oldest first, of which each layer has a pair
        self._first: list[list[KeysValues]] = []

    def append(self, layers: Sequence[KeysValues]) -> None:
        """Add a latent frame: keys and values of each layer."""
        if self.frames < self.sinks:
            self._first.append(list(layers))
        self._recent = [*self._recent, list(layers)][-self.size :] if self.size else []
        self.frames += 1
        self.rotated = {}

    def recent(self, layer: int) -> list[KeysValues]:
        """Keys and values of a layer, the oldest latent frame first."""
        return [frame[layer] for frame in self._recent]

    def sink(self, layer: int) -> list[KeysValues]:
        """Those of the first latent frames that the window has left behind."""
        behind = max(0, min(self.sinks, self.frames - len(self._recent)))
        return [frame[layer] for frame in self._first[:behind]]

    def narrow(self, batch: int) -> KVCache:
        """A view of the first `batch` samples."""
        view = KVCache(self.size, self.sinks)
        view.frames = self.frames
        for name in ("_recent", "_first"):
            frames = [[(k[:batch], v[:batch]) for k, v in frame] for frame in getattr(self, name)]
            setattr(view, name, frames)
        return view

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` makes an equal cache."""
        tensors = {"frames": torch.tensor(self.frames)}
        for name, held in (("recent", self._recent), ("first", self._first)):
            for i, frame in enumerate(held):
                for j, (k, v) in enumerate(frame):
                    tensors |= {f"{name}.{i}.{j}.keys": k, f"{name}.{i}.{j}.values": v}
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        self.frames, self.rotated = int(state["frames"]), {}
        self._recent, self._first = ([*_frames(state, name)] for name in ("recent", "first"))


def _frames(state: dict[str, Tensor], name: str) -> list[list[KeysValues]]:
    frames: list[list[KeysValues]] = []
    while f"{name}.{len(frames)}.0.keys" in state:
        frame: list[KeysValues] = []
        while (key := f"{name}.{len(frames)}.{len(frame)}") + ".keys" in state:
            frame.append((state[f"{key}.keys"], state[f"{key}.values"]))
        frames.append(frame)
    return frames
