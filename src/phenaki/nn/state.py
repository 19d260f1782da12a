"""What the causal layers of a network keep between the chunks of a stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StreamState:
    """State of one network in one stream: `latent_frames` processed so far, and each causal layer's earlier inputs.

    The caller that feeds the chunks (`tokenizers/streaming.py`) counts `latent_frames`; networks only read it.
    """

    def __init__(self) -> None:
        self.latent_frames = 0
        self._history: dict[nn.Module, Tensor] = {}
        self._tiles: dict[int, StreamState] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, tiles included."""
        own = sum(history.untyped_storage().nbytes() for history in self._history.values())
        return own + sum(tile.nbytes for tile in self._tiles.values())

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """All that the state of `network` holds, by name, for `load`."""
        names = {module: name for name, module in network.named_modules()}
        tensors = {f"layer.{names[layer]}": history for layer, history in self._history.items()}
        for index, tile in self._tiles.items():
            tensors |= {f"tile.{index}.{name}": tensor for name, tensor in tile.tensors(network).items()}
        return tensors | {"latent_frames": torch.tensor(self.latent_frames)}

    def load(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave for the same network."""
        modules, tiles = dict(network.named_modules()), defaultdict(dict)
        self.latent_frames, self._history, self._tiles = int(tensors["latent_frames"]), {}, {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "layer":
                self._history[modules[rest]] = tensor
            elif kind == "tile":
                index, _, inner = rest.partition(".")
                tiles[int(index)][inner] = tensor
        for index, inner in tiles.items():
            self.tile(index).load(network, inner)

    def tile(self, index: int) -> StreamState:
        """The state of one tile, where the network runs on several tiles of the same frames."""
        tile = self._tiles.setdefault(index, StreamState())
        tile.latent_frames = self.latent_frames
        return tile

    def prepend(self, layer: nn.Module, x: Tensor, keep: int, dim: int) -> Tensor:
        """`x` with the layer's history in front of it along `dim`; the last `keep` become its history."""
        if layer in self._history:
            x = torch.cat((self._history[layer], x), dim)
        keep = min(keep, x.shape[dim])
        self._history[layer] = x.narrow(dim, x.shape[dim] - keep, keep).clone()  # a view would hold the whole chunk
        return x


def is_first_chunk(state: StreamState | None) -> bool:
    """Whether the input is a whole clip (no state) or the first chunk of a stream."""
    return state is None or state.latent_frames == 0
