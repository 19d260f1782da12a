"""Keys and values of earlier latent frames, for attention under a sliding window.

Shapes: B batch, H heads, n latent frames, S positions of a latent frame, M = n * S, K head width, W window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from phenaki.nn.positions import rotate

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Window:
    """What the latent frames of a pass attend to. `rotary`: of the W slots of the window, (W * S, K); the last is the
    current frame's. `sinks`: how many first latent frames stay visible. `mask`: bool (F, 1, 1, M), which past
    positions each latent frame sees; None: all."""

    rotary: tuple[Tensor, Tensor]
    length: int
    sinks: int
    mask: Tensor | None = None

    def slots(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Rotary angles of the slots first..end-1."""
        cos, sin = self.rotary
        size = len(cos) // self.length
        return cos[first * size : end * size], sin[first * size : end * size]


@dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, (B, H, n, S, K), the oldest latent frame first: of the last `size` latent
    frames, and of the first `sinks` of all. None: there are none yet. frames: latent frames written so far."""

    size: int
    sinks: int
    frames: int = 0
    recent: KeysValues | None = None
    first: KeysValues | None = None
    _attended: list[KeysValues] = field(default_factory=list)

    def append(self, keys: Tensor, values: Tensor) -> LayerCache:
        """With a latent frame more, of keys and values (B, H, S, K)."""
        last = keys.unsqueeze(2), values.unsqueeze(2)
        recent = _extended(self.recent, last, self.size) if self.size else None
        first = _extended(self.first, last, self.sinks) if self.frames < self.sinks else self.first
        return replace(self, frames=self.frames + 1, recent=recent, first=first, _attended=[])

    def attended(self, keys: Tensor, values: Tensor, window: Window) -> KeysValues:
        """Keys, rotated, and values (B, H, M + S, K) of all that a latent frame attends to: what is held, and its own
        keys (rotated) and values (B, H, S, K), of as many samples as are held or fewer.

        They are valid until the next call, since what is held is rotated and copied once.
        """
        B, size = len(keys), keys.shape[2]
        if not self._attended or len(self._attended[0][0]) < B:
            held = [*self._held(window)]
            batch = len(held[0][0]) if held else B
            held.append(tuple(own.new_empty(batch, *own.shape[1:]) for own in (keys, values)))
            self._attended[:] = [tuple(torch.cat(parts, dim=2) for parts in zip(*held, strict=True))]
        attended = tuple(part[:B] for part in self._attended[0])
        for part, own in zip(attended, (keys, values), strict=True):
            part[:, :, -size:] = own
        return attended

    def _held(self, window: Window) -> Iterator[KeysValues]:
        current = window.length - 1
        if self.recent is not None:
            keys, values = (part.flatten(2, 3) for part in self.recent)
            slots = window.slots(current - self.recent[0].shape[2], current)
            yield rotate(keys, slots).to(values.dtype), values
        behind = min(self.sinks, self.frames - min(self.frames, self.size))  # those that the window has left
        if behind:
            keys, values = (part[:, :, :behind] for part in self.first)
            turned = rotate(keys, window.slots(current, current + 1)).to(values.dtype)
            yield turned.flatten(2, 3), values.flatten(2, 3)


class KVCache:
    """The keys and values of each layer.

    Keys are kept without rotation in time, so that their positions can be relative to the frame that attends to them.
    The state is fixed in size once the window is full. deferred: a finished latent frame, its ids and condition, that
    the next pass writes.
    """

    def __init__(self, size: int, sinks: int = 0) -> None:
        self.size, self.sinks, self.frames = size, sinks, 0
        self.deferred: tuple[Tensor, Any] | None = None
        self._layers: list[LayerCache] = []

    def layer(self, number: int) -> LayerCache:
        """That of a layer."""
        return self._layers[number] if self._layers else LayerCache(self.size, self.sinks, self.frames)

    def write(self, layers: Sequence[LayerCache]) -> None:
        """Hold these, which have a latent frame more."""
        self._layers, self.frames, self.deferred = list(layers), self.frames + 1, None

    def skip(self, frames: int) -> None:
        """Go on as latent frame number `frames`, with the sinks alone in sight if that is not the next one."""
        if frames != self.frames:
            self.frames = frames
            self._layers = [replace(each, frames=frames, recent=None, _attended=[]) for each in self._layers]

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` makes an equal cache. A deferred latent frame is not among them."""
        tensors = {"frames": torch.tensor(self.frames)}
        for name in ("recent", "first"):
            for number, layer in enumerate(self._layers):
                if (held := getattr(layer, name)) is not None:
                    tensors |= {f"{name}.{number}.keys": held[0], f"{name}.{number}.values": held[1]}
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a state."""
        self.frames, self.deferred = int(state["frames"]), None
        held = [list(_of_layers(state, name)) for name in ("recent", "first")]
        self._layers = [
            LayerCache(self.size, self.sinks, self.frames, *(part[number] if part else None for part in held))
            for number in range(max(map(len, held)))
        ]

    @staticmethod
    def concatenate(caches: Sequence[KVCache], branches: int = 1) -> KVCache:
        """A cache of all samples, for latent frames that attend to equally many others; of one, a copy of its own.
        branches: of guidance, that each batch has, one after the other; so has the result."""
        joint = copy(caches[0])
        if len(caches) == 1:
            return joint

        def joined(parts: Sequence[KeysValues | None]) -> KeysValues | None:
            if parts[0] is None:
                return None
            chunks = [[half.chunk(branches) for half in halves] for halves in zip(*parts, strict=True)]
            return tuple(torch.cat([one[branch] for branch in range(branches) for one in half]) for half in chunks)

        layers = zip(*(cache._layers for cache in caches), strict=True)
        held = [[joined([getattr(each, name) for each in layer]) for name in ("recent", "first")] for layer in layers]
        joint._layers = [LayerCache(joint.size, joint.sinks, joint.frames, *parts) for parts in held]
        return joint

    def split(self, caches: Sequence[KVCache], branches: int = 1) -> list[KVCache]:
        """What became of the caches that were concatenated, of one batch size each."""
        if len(caches) == 1:
            return [self]

        def part(held: KeysValues | None, index: int) -> KeysValues | None:
            if held is None:
                return None
            rows = (half.unflatten(0, (branches, len(caches), -1))[:, index].flatten(0, 1) for half in held)
            return tuple(half.clone() for half in rows)  # a view would hold the whole batch

        parts = [copy(cache) for cache in caches]
        for index, own in enumerate(parts):
            own.frames += self.frames - caches[0].frames
            own._layers = [
                LayerCache(own.size, own.sinks, own.frames, part(each.recent, index), part(each.first, index))
                for each in self._layers
            ]
        return parts


def _extended(held: KeysValues | None, last: KeysValues, size: int) -> KeysValues:
    """The last `size` latent frames of those held and one more."""
    if held is None:
        return tuple(part.contiguous() for part in last)  # not a view of more than that
    start = max(0, held[0].shape[2] + 1 - size)
    return tuple(torch.cat((old[:, :, start:], new), dim=2) for old, new in zip(held, last, strict=True))


def _of_layers(state: dict[str, Tensor], name: str) -> Iterator[KeysValues]:
    for layer in count():
        if (key := f"{name}.{layer}") + ".keys" not in state:
            return
        yield state[f"{key}.keys"], state[f"{key}.values"]
