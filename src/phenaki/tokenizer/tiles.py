"""Frames larger than memory allows, in tiles that overlap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.errors import PhenakiError
from phenaki.nn.past import Past
from phenaki.tokenizer.base import Tokenizer

OVERLAP = 4  # a tile shares at least one part in so many with each neighbour


class Tiled(Tokenizer):
    """A tokenizer that goes through each frame tile by tile, and is one itself: for clips, streams and images.

    Its ids are one grid for the whole frame, each from the tile in which it lies farthest from the edge. Decoded tiles
    fade into each other, linearly over the overlap. Frames no larger than a tile are encoded and decoded whole. A tile
    is a part of a scene, which a tokenizer trained on whole scenes draws less well: where memory allows, go without.

    Args:
        tokenizer: what sees the tiles; its weights are shared, not copied.
        tile: (height, width) in pixels, multiples of its patch; None takes its `image_size`, what it was trained on.

    Raises PhenakiError for tiles that do not fit the patches, or are less than two of them high or wide.
    """

    def __init__(self, tokenizer: Tokenizer, tile: tuple[int, int] | None = None):
        super().__init__()
        self.tokenizer = tokenizer
        self.config, self.patch, self.quantizer = tokenizer.config, tokenizer.patch, tokenizer.quantizer
        self.causal = tokenizer.causal
        height, width = tile or tokenizer.config.image_size
        _, rows, columns = tokenizer.grid(1, height, width)
        if min(rows, columns) < 2:
            raise PhenakiError(
                f"tiles of {height}x{width} pixels cannot overlap: with patches of {self.patch[1]}x{self.patch[2]}, "
                f"give {2 * self.patch[1]}x{2 * self.patch[2]} or more"
            )
        self.tile = (rows, columns)  # in tokens

    def latents(self, video: Tensor, past: Past | None = None) -> Tensor:
        def network(piece: Tensor, number: int) -> Tensor:
            return self.tokenizer.latents(piece, past and past.part(number)).movedim(-1, 1)

        return self._over_tiles(video, network, self.patch[1:], (1, 1), farthest_from_the_edge).movedim(1, -1)

    def reconstruct(self, latents: Tensor, past: Past | None = None) -> Tensor:
        def network(piece: Tensor, number: int) -> Tensor:
            return self.tokenizer.reconstruct(piece.movedim(1, -1), past and past.part(number))

        return self._over_tiles(latents.movedim(-1, 1), network, (1, 1), self.patch[1:], linear_fades)

    def _over_tiles(
        self,
        x: Tensor,
        network: Callable[[Tensor, int], Tensor],
        scale: tuple[int, int],
        out_scale: tuple[int, int],
        weigh: Callable[[list[int], int, int], Tensor],
    ) -> Tensor:
        """(..., h, w) times `scale` -> (..., h, w) times `out_scale`: what the network makes of each tile, weighted."""
        grid = [length // s for length, s in zip(x.shape[-2:], scale, strict=True)]
        tile = [min(sides) for sides in zip(self.tile, grid, strict=True)]
        begins = [tile_begins(length, size) for length, size in zip(grid, tile, strict=True)]
        rows, columns = (
            weigh([begin * s for begin in axis], size * s, length * s).to(x.device)
            for axis, size, length, s in zip(begins, tile, grid, out_scale, strict=True)
        )
        whole = None
        for number, ((i, top), (j, left)) in enumerate(product(enumerate(begins[0]), enumerate(begins[1]))):
            piece = network(_cut(x, (top, left), tile, scale), number)
            weights = rows[i, :, None] * columns[j]
            if whole is None:
                whole = piece.new_zeros(*piece.shape[:-2], *weights.shape)
            _cut(whole, (top, left), tile, out_scale).add_(piece * _cut(weights, (top, left), tile, out_scale))
        return whole


def tile_begins(length: int, size: int) -> list[int]:
    """Where the tiles of `size` begin that cover `length` evenly, overlapping by `size / OVERLAP` or more."""
    step = size - -(-size // OVERLAP)
    last = -(-(length - size) // step)  # the number of the last tile
    return [number * (length - size) // max(1, last) for number in range(last + 1)]


def linear_fades(begins: list[int], size: int, length: int) -> Tensor:
    """The weight of each tile at each place, float32 (tiles, length): 1 where it is alone, linear in the overlaps.

    The weights of a place add up to 1.
    """
    place = torch.arange(length) + 0.5
    weights = []
    for begin, before, after in zip(begins, [None, *begins], [*begins[1:], None], strict=False):
        weight = ((place > begin) & (place < begin + size)).float()
        if before is not None:
            weight = weight.minimum((place - begin) / (before + size - begin))
        if after is not None:
            weight = weight.minimum((begin + size - place) / (begin + size - after))
        weights.append(weight.clamp_min(0))
    together = torch.stack(weights)
    return together / together.sum(0)


def farthest_from_the_edge(begins: list[int], size: int, length: int) -> Tensor:
    """1 for the tile from whose edge a place lies farthest, 0 for the others: float32 (tiles, length)."""
    nearest = linear_fades(begins, size, length).argmax(0)
    return F.one_hot(nearest, len(begins)).T.float()


def _cut(x: Tensor, begin: tuple[int, int], tile: list[int], scale: tuple[int, int]) -> Tensor:
    """A tile of x (..., H, W); begin and tile are in tokens of `scale` places."""
    (top, left), (rows, columns) = begin, tile
    return x[..., top * scale[0] : (top + rows) * scale[0], left * scale[1] : (left + columns) * scale[1]]
