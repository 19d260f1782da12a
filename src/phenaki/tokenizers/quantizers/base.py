"""The contract of a quantizer, its configuration and its output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError

Function = TypeVar("Function", bound=Callable)


@configclass
class QuantizerConfig:
    """Settings of all quantizers; each kind reads its own.

    kind: `fsq` is finite scalar quantization with `levels`; `codebook` learns l2-normalised factorized codes (paper,
        B.1); `lookup_free` uses vectors of signs as codes.
    """

    kind: Literal["fsq", "codebook", "lookup_free"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8, 8)
    num_codebooks: int = bounded(1, at_least=1)
    """Of `fsq`: the levels are split into so many groups, and a latent becomes an id of each, all of one vocabulary. So
    a code of many bits is written by a generator as a few ids, side by side."""
    codebook_size: int = 8192
    """Of `codebook` and `lookup_free`."""
    code_dim: int = 32
    commitment: float = 0.25
    """Weight of the commitment loss, relative to the codebook loss."""
    dead_code_threshold: float = 0.01
    """A code used less than this fraction of uniform use is dead: it is reset to a latent of the batch."""
    init: Literal["random", "kmeans"] = "random"
    """Initial codes: random directions, or clusters of the latents of the first batches."""
    update: Literal["gradient", "ema"] = "gradient"
    """How codes learn: by the codebook loss, or as moving averages of the latents assigned to them."""
    decay: float = bounded(0.99, at_least=0, below=1)
    """Per step, of the moving averages of code usage and, with `update` "ema", of the codes."""
    entropy_temperature: float = bounded(0.01, above=0)
    """Softmax temperature of code probabilities in the lookup-free entropy loss."""

    def __post_init__(self) -> None:
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2):
            raise PhenakiError(f"quantizer levels {self.levels}: use one or more level counts, each at least 2")
        if self.num_codebooks > 1:
            self._check_codebooks()
        if self.kind == "codebook" and (self.codebook_size < 2 or self.code_dim < 1):
            raise PhenakiError(
                f"a codebook of {self.codebook_size} codes of dimension {self.code_dim}: "
                "use at least 2 codes of dimension 1"
            )
        if self.kind == "lookup_free" and (self.codebook_size < 2 or self.codebook_size.bit_count() != 1):
            nearest = 2 ** max(1, round(math.log2(max(1, self.codebook_size))))
            raise PhenakiError(
                f"lookup-free quantization needs a power of 2 as codebook_size, not {self.codebook_size}: use {nearest}"
            )
        if self.kind != "codebook" and (self.init, self.update) != ("random", "gradient"):
            raise PhenakiError(
                f"quantizer init '{self.init}' and update '{self.update}' are for kind 'codebook': "
                f"'{self.kind}' learns no codes; leave them at 'random' and 'gradient'"
            )

    def _check_codebooks(self) -> None:
        if self.kind != "fsq":
            raise PhenakiError(
                f"{self.num_codebooks} codebooks are for quantizers of kind 'fsq': '{self.kind}' has one, leave "
                "num_codebooks at 1"
            )
        if len(self.levels) % self.num_codebooks or len({math.prod(group) for group in self.groups}) > 1:
            raise PhenakiError(
                f"quantizer levels {self.levels} do not make {self.num_codebooks} codebooks: split evenly, in order, "
                "each must have the same number of levels and of codes"
            )

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The levels of each codebook of `fsq`."""
        size = len(self.levels) // self.num_codebooks
        return [self.levels[start : start + size] for start in range(0, len(self.levels), size)]

    @property
    def vocab_size(self) -> int:
        """Of each codebook."""
        return math.prod(self.groups[0]) if self.kind == "fsq" else self.codebook_size


class Quantized(NamedTuple):
    """Output of a quantizer: latents (..., w, D) with the straight-through gradient, ids int64 (..., w * C) of C
    codebooks, and codes (..., w, d) before and after rounding; float32."""

    latents: Tensor
    ids: Tensor
    before: Tensor
    after: Tensor


def in_float32(function: Function) -> Function:
    """Disable autocast: distances in bfloat16 select other codes."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return wrapped


class Quantizer(nn.Module, ABC):
    """Latents (..., w, D) to codes of dimension d and back, with projections between D and d. A code is one of V,
    or has an id in 0..V-1 for each of C codebooks; the ids of a latent are neighbours, so there are w * C in a row.

    Subclasses define `quantize` and `indices_to_codes` and, if they learn codes, `losses`, `statistics` and `update`.
    """

    def __init__(self, config: QuantizerConfig, width: int, code_dim: int):
        super().__init__()
        self.config = config
        self.vocab_size, self.num_codebooks = config.vocab_size, config.num_codebooks
        self.project_in = nn.Linear(width, code_dim)
        self.project_out = nn.Linear(code_dim, width)

    @in_float32
    def forward(self, latents: Tensor) -> Quantized:
        """latents float (..., w, D) -> Quantized."""
        before, after, ids = self.quantize(self.project_in(latents.float()))
        straight_through = before + (after - before).detach()
        return Quantized(self.project_out(straight_through), ids, before, after)

    @in_float32
    def indices_to_latents(self, ids: Tensor) -> Tensor:
        """ids int64 (..., w * C) in 0..V-1 -> latents float32 (..., w, D), as `forward` returns with these ids."""
        return self.project_out(self.indices_to_codes(ids))

    @abstractmethod
    def quantize(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """projected float32 (..., w, d) -> codes (..., w, d) before and after rounding, ids (..., w * C)."""

    @abstractmethod
    def indices_to_codes(self, ids: Tensor) -> Tensor:
        """ids (..., w * C) -> codes float32 (..., w, d), as after rounding."""

    def losses(self, quantized: Quantized) -> dict[str, Tensor]:
        """Unweighted loss terms, scalars, by name: some of `codebook`, `commitment` and `entropy`."""
        return {}

    def statistics(self, quantized: Quantized) -> tuple[Tensor, ...]:
        """Statistics of a batch for `update`, to be summed over batches and processes; () if there is no update."""
        return ()

    @property
    def learns(self) -> bool:
        """Whether `update` changes anything."""
        return False

    def update(self, statistics: tuple[Tensor, ...], quantized: Quantized, rng: torch.Generator) -> int | Tensor:
        """Update the codes other than by gradients, after the optimizer's step.

        Args:
            statistics: summed over all processes.
            quantized: a batch whose latents codes may be reset to.

        Returns:
            How many codes were reset to latents of the batch.
        """
        return 0


def distance(before: Tensor, after: Tensor) -> Tensor:
    """Squared distance of codes (..., d), mean over latents."""
    return (before - after).square().sum(-1).mean()


def code_usage(ids: Tensor, vocab_size: int, num_codebooks: int = 1) -> tuple[Tensor, Tensor]:
    """Perplexity of ids (..., w * C) (1..V), and the fraction of the V codes used (0..1): means over C codebooks, as
    scalars that the host has not read."""
    columns = ids.reshape(-1, num_codebooks).T.contiguous().sort().values  # not one count per code: there may be 2^48
    counts = torch.searchsorted(columns, columns, right=True) - torch.searchsorted(columns, columns)  # of equals
    counts = counts.to(torch.float64 if ids.is_cpu else torch.float32)
    perplexity = (-(counts / columns.shape[1]).log().mean(1)).exp().mean()
    return perplexity, (1 / counts).sum(1).mean() / vocab_size
