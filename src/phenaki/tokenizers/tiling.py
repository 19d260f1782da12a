"""Overlapping tiles, for frames that need more memory than there is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.errors import PhenakiError
from phenaki.nn.state import StreamState
from phenaki.tokenizers.base import Tokenizer

OVERLAP = 4  # neighbouring tiles overlap by at least 1 / OVERLAP of their size


class Tiled(Tokenizer):
    """A tokenizer that processes frames in tiles, for clips, streams and images.

    Each id of the frame's grid comes from the tile in which it is farthest from the edge. Decoded tiles are blended
    linearly over their overlap. Frames no larger than a tile are processed whole. A tile shows only part of a scene,
    which a tokenizer trained on whole scenes reconstructs less well: use tiles only if memory requires it.

    Args:
        tokenizer: processes the tiles; its weights are shared, not copied.
        tile: (height, width) in pixels, multiples of the patch; None: `image_size`, the training resolution.

    Raises PhenakiError for tiles that do not fit the patches or are smaller than two patches.
    """

    def __init__(self, tokenizer: Tokenizer, tile: tuple[int, int] | None = None):
        super().__init__()
        self.tokenizer = tokenizer
        self.config, self.patch, self.quantizer = tokenizer.config, tokenizer.patch, tokenizer.quantizer
        self.causal = tokenizer.causal
        height, width = tile or tokenizer.config.image_size
        _, rows, columns = tokenizer.grid(1, height, width)
        columns //= tokenizer.num_codebooks
        if min(rows, columns) < 2:
            raise PhenakiError(
                f"tiles of {height}x{width} pixels cannot overlap: with patches of {self.patch[1]}x{self.patch[2]}, "
                f"use {2 * self.patch[1]}x{2 * self.patch[2]} or more"
            )
        self.tile = (rows, columns)  # in patches

    def encode_latents(self, video: Tensor, state: StreamState | None = None) -> Tensor:
        def network(tile: Tensor, index: int) -> Tensor:
            return self.tokenizer.encode_latents(tile, state and state.tile(index)).movedim(-1, 1)

        return self._over_tiles(video, network, self.patch[1:], (1, 1), nearest_tile).movedim(1, -1)

    def decode_latents(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        def network(tile: Tensor, index: int) -> Tensor:
            return self.tokenizer.decode_latents(tile.movedim(1, -1), state and state.tile(index))

        return self._over_tiles(latents.movedim(-1, 1), network, (1, 1), self.patch[1:], linear_blend)

    def _over_tiles(
        self,
        x: Tensor,
        network: Callable[[Tensor, int], Tensor],
        scale: tuple[int, int],
        out_scale: tuple[int, int],
        weigh: Callable[[list[int], int, int], Tensor],
    ) -> Tensor:
        """(..., h, w) times `scale` -> (..., h, w) times `out_scale`: the weighted sum of the network's tiles."""
        grid = [length // s for length, s in zip(x.shape[-2:], scale, strict=True)]
        tile = [min(sides) for sides in zip(self.tile, grid, strict=True)]
        starts = [tile_starts(length, size) for length, size in zip(grid, tile, strict=True)]
        rows, columns = (
            weigh([start * s for start in axis], size * s, length * s).to(x.device)
            for axis, size, length, s in zip(starts, tile, grid, out_scale, strict=True)
        )
        out = None
        for index, ((i, top), (j, left)) in enumerate(product(enumerate(starts[0]), enumerate(starts[1]))):
            y = network(_crop(x, (top, left), tile, scale), index)
            weights = rows[i, :, None] * columns[j]
            if out is None:
                out = y.new_zeros(*y.shape[:-2], *weights.shape)
            _crop(out, (top, left), tile, out_scale).add_(y * _crop(weights, (top, left), tile, out_scale))
        return out


def tile_starts(length: int, size: int) -> list[int]:
    """Starts of evenly spaced tiles of `size` that cover `length` and overlap by `size / OVERLAP` or more."""
    step = size - -(-size // OVERLAP)
    last = -(-(length - size) // step)  # index of the last tile
    return [index * (length - size) // max(1, last) for index in range(last + 1)]


def linear_blend(starts: list[int], size: int, length: int) -> Tensor:
    """Each tile's weight at each position, float32 (tiles, length): linear over the overlaps, 1 elsewhere in the tile.

    The weights of a position sum to 1.
    """
    position = torch.arange(length) + 0.5
    weights = []
    for start, before, after in zip(starts, [None, *starts], [*starts[1:], None], strict=False):
        weight = ((position > start) & (position < start + size)).float()
        if before is not None:
            weight = weight.minimum((position - start) / (before + size - start))
        if after is not None:
            weight = weight.minimum((start + size - position) / (start + size - after))
        weights.append(weight.clamp_min(0))
    stacked = torch.stack(weights)
    return stacked / stacked.sum(0)


def nearest_tile(starts: list[int], size: int, length: int) -> Tensor:
    """1 for the tile from whose edge a position is farthest, 0 for the others: float32 (tiles, length)."""
    nearest = linear_blend(starts, size, length).argmax(0)
    return F.one_hot(nearest, len(starts)).T.float()


def _crop(x: Tensor, start: tuple[int, int], tile: list[int], scale: tuple[int, int]) -> Tensor:
    """A tile of x (..., H, W); start and tile are in tokens, each `scale` positions of x."""
    (top, left), (rows, columns) = start, tile
    return x[..., top * scale[0] : (top + rows) * scale[0], left * scale[1] : (left + columns) * scale[1]]
