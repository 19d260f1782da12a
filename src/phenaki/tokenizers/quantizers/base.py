"""What every quantizer does: its configuration, its result, and the contract that the rest of the code relies on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError

Function = TypeVar("Function", bound=Callable)


@dataclass(frozen=True)
class QuantizerConfig:
    """`fsq`: finite scalar quantization with these levels. `codebook`: l2-normalised factorized codes (paper, B.1).
    `lookup_free`: each code a row of signs.

    `codebook_size` is that of the last two; `code_dim` and all that follows is of the codebook alone, but for
    `commitment` and `entropy_temperature`.
    """

    kind: Literal["fsq", "codebook", "lookup_free"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8, 8)
    codebook_size: int = 8192
    code_dim: int = 32
    commitment: float = 0.25
    """Weight of the commitment loss beside the codebook loss."""
    dead_code_threshold: float = 0.01
    """A code used less often than this share of an even use is dead and restarts from a latent of the batch."""
    init: Literal["random", "kmeans"] = "random"
    """What the codes start from: random directions, or clusters of the latents of the first batches."""
    update: Literal["gradient", "ema"] = "gradient"
    """How the codes learn: by the codebook loss, or as moving averages of the latents that choose them."""
    decay: float = 0.99
    """Of the moving averages, per step: of the codes' uses and, with `update` "ema", of the codes."""
    entropy_temperature: float = 0.01
    """Of the lookup-free entropy: how far from a latent the codes are that count as possible for it."""

    def __post_init__(self) -> None:
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2):
            raise PhenakiError(f"quantizer levels {self.levels}: give at least one level count, each 2 or more")
        if self.kind == "codebook" and (self.codebook_size < 2 or self.code_dim < 1):
            raise PhenakiError(
                f"a codebook of {self.codebook_size} codes of dimension {self.code_dim}: "
                "there must be at least 2 codes of dimension 1"
            )
        if self.kind == "lookup_free" and (self.codebook_size < 2 or self.codebook_size.bit_count() != 1):
            nearest = 2 ** max(1, round(math.log2(max(1, self.codebook_size))))
            raise PhenakiError(
                f"lookup-free quantization has a power of 2 of codes, not {self.codebook_size}: take {nearest}"
            )
        if self.kind != "codebook" and (self.init, self.update) != ("random", "gradient"):
            raise PhenakiError(
                f"quantizer init '{self.init}' and update '{self.update}' are for the kind 'codebook': "
                f"'{self.kind}' learns no codes; leave them at 'random' and 'gradient'"
            )
        if not 0 <= self.decay < 1:
            raise PhenakiError(f"quantizer decay {self.decay} must be from 0 to below 1")
        if self.entropy_temperature <= 0:
            raise PhenakiError(f"quantizer entropy_temperature {self.entropy_temperature} must be above 0")

    @property
    def vocab_size(self) -> int:
        return math.prod(self.levels) if self.kind == "fsq" else self.codebook_size


class Quantized(NamedTuple):
    """latents (..., D) with the straight-through gradient, ids int64 (...), codes (..., d) before and after rounding;
    float32."""

    latents: Tensor
    ids: Tensor
    before: Tensor
    after: Tensor


def in_float32(function: Function) -> Function:
    """Keep autocast away: distances and entropies of bfloat16 choose other codes."""

    @wraps(function)
    def kept(*args: Any, **named: Any) -> Any:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **named)

    return kept


class Quantizer(nn.Module, ABC):
    """Latents (..., D) to one of V codes of dimension d, and back; with projections of its own from and to the width D.

    Subclasses define `round` and `lookup`, and what they learn by: `losses`, and `statistics` with `update`.
    """

    def __init__(self, config: QuantizerConfig, width: int, code_dim: int):
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.project_in = nn.Linear(width, code_dim)
        self.project_out = nn.Linear(code_dim, width)

    @in_float32
    def forward(self, latents: Tensor) -> Quantized:
        """latents float (..., D) -> Quantized, all of it in float32."""
        before, after, ids = self.quantize(self.project_in(latents.float()))
        through = before + (after - before).detach()
        return Quantized(self.project_out(through), ids, before, after)

    @in_float32
    def indices_to_latents(self, ids: Tensor) -> Tensor:
        """ids int64 (...) in 0..V-1 -> latents float32 (..., D), those that `forward` gives with these ids."""
        return self.project_out(self.indices_to_codes(ids))

    @abstractmethod
    def quantize(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """projected float32 (..., d) -> codes (..., d) before and after rounding, ids (...)."""

    @abstractmethod
    def indices_to_codes(self, ids: Tensor) -> Tensor:
        """ids (...) -> codes float32 (..., d) as they are after rounding."""

    def losses(self, quantized: Quantized) -> dict[str, Tensor]:
        """The terms that this quantizer learns by, of `codebook`, `commitment` and `entropy`: scalars, not weighted."""
        return {}

    def statistics(self, quantized: Quantized) -> tuple[Tensor, ...]:
        """What `update` has to know of a batch, to be summed over batches and processes; () where it learns nothing."""
        return ()

    def update(self, statistics: tuple[Tensor, ...], quantized: Quantized, rng: torch.Generator) -> int:
        """Learn what gradients do not teach; for the training step to call after the optimizer's.

        `statistics`: those of all processes. `quantized`: a batch, from whose latents codes may start.

        Returns:
            how many codes began anew, from latents of the batch.
        """
        return 0


def distance(before: Tensor, after: Tensor) -> Tensor:
    """Squared distance of codes (..., d), mean over latents."""
    return (before - after).square().sum(-1).mean()


def code_usage(ids: Tensor, vocab_size: int) -> tuple[float, float]:
    """Perplexity of the codes in `ids` (1..V) and the share of the V codes that occur (0..1)."""
    counts = torch.bincount(ids.flatten(), minlength=vocab_size).double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return float(entropy.exp()), float((counts > 0).double().mean())
