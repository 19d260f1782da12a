"""Quantizers: continuous latents to one of V codes and back, behind one interface.

Both own their projections from and to the model's width D and map

    quantize(latents (..., D)) -> Quantized(latents (..., D), ids (...), before (..., d), after (..., d))
    embed(ids (...)) -> latents (..., D)

where `latents` carry the straight-through gradient, and `before`/`after` are the low-dimensional codes around rounding.
All of it runs in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.errors import PhenakiError


@dataclass(frozen=True)
class QuantizerConfig:
    """`fsq`: finite scalar quantization with these levels. `codebook`: l2-normalised factorized codes (paper, B.1)."""

    kind: Literal["fsq", "codebook"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8, 8)
    codebook_size: int = 8192
    code_dim: int = 32
    commitment: float = 0.25
    restart_below: float = 0.01
    """A code used less often than this share of an even use is dead and restarts from a latent of the batch."""

    def __post_init__(self) -> None:
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2):
            raise PhenakiError(f"quantizer levels {self.levels}: give at least one level count, each 2 or more")
        if self.kind == "codebook" and (self.codebook_size < 2 or self.code_dim < 1):
            raise PhenakiError(
                f"a codebook of {self.codebook_size} codes of dimension {self.code_dim}: "
                "there must be at least 2 codes of dimension 1"
            )

    @property
    def vocab_size(self) -> int:
        return math.prod(self.levels) if self.kind == "fsq" else self.codebook_size


class Quantized(NamedTuple):
    latents: Tensor
    ids: Tensor
    before: Tensor
    after: Tensor


def build_quantizer(config: QuantizerConfig, width: int) -> FSQ | Codebook:
    return FSQ(config, width) if config.kind == "fsq" else Codebook(config, width)


class FSQ(nn.Module):
    """Finite scalar quantization (2309.15505): each of d dimensions is bounded and rounded to one of its levels.

    No codebook is learned, so no loss pulls at it and none of its codes can die.
    """

    def __init__(self, config: QuantizerConfig, width: int):
        super().__init__()
        self.levels = config.levels
        self.vocab_size = config.vocab_size
        self.project_in = nn.Linear(width, len(self.levels))
        self.project_out = nn.Linear(len(self.levels), width)
        levels = torch.tensor(self.levels)
        self.register_buffer("_levels", levels, persistent=False)
        self.register_buffer(
            "_strides", torch.cat((torch.ones(1, dtype=torch.long), levels.cumprod(0)[:-1])), persistent=False
        )

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def forward(self, latents: Tensor) -> Quantized:
        # tanh spans (-0.5, L - 0.5), so that each of the L levels gets the same share of the line.
        unit = torch.tanh(self.project_in(latents.float()))
        position = (unit + 1) / 2 * self._levels - 0.5
        index = position.round().clamp(torch.zeros_like(self._levels), self._levels - 1)
        rounded = (index + 0.5) / self._levels * 2 - 1
        through = unit + (rounded - unit).detach()
        ids = (index.long() * self._strides).sum(-1)
        return Quantized(self.project_out(through), ids, unit, rounded)

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def embed(self, ids: Tensor) -> Tensor:
        index = ids[..., None] // self._strides % self._levels
        return self.project_out((index + 0.5) / self._levels * 2 - 1)

    def loss(self, quantized: Quantized) -> Tensor:
        """Nothing to pull together: zero."""
        return quantized.latents.new_zeros(())

    def restart_dead_codes(self, quantized: Quantized, rng: torch.Generator) -> int:
        """No code can die: 0."""
        return 0


class Codebook(nn.Module):
    """A learned codebook of l2-normalised, factorized (low-dimensional) codes (ViT-VQGAN 2110.04627; paper, B.1)."""

    def __init__(self, config: QuantizerConfig, width: int):
        super().__init__()
        self.config = config
        self.vocab_size = config.codebook_size
        self.project_in = nn.Linear(width, config.code_dim)
        self.project_out = nn.Linear(config.code_dim, width)
        self.codes = nn.Parameter(torch.randn(config.codebook_size, config.code_dim))
        self.register_buffer("use", torch.full((config.codebook_size,), 1 / config.codebook_size))

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def forward(self, latents: Tensor) -> Quantized:
        before = F.normalize(self.project_in(latents.float()), dim=-1)
        codes = F.normalize(self.codes, dim=-1)
        ids = self._nearest(before.detach(), codes.detach())
        after = codes[ids]
        through = before + (after - before).detach()
        return Quantized(self.project_out(through), ids, before, after)

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def embed(self, ids: Tensor) -> Tensor:
        return self.project_out(F.normalize(self.codes, dim=-1)[ids])

    def loss(self, quantized: Quantized) -> Tensor:
        """Codebook and commitment loss (1711.00937, equation 3), mean over latents of the squared distance."""
        before, after = quantized.before, quantized.after
        codebook = (after - before.detach()).square().sum(-1).mean()
        commitment = (before - after.detach()).square().sum(-1).mean()
        return codebook + self.config.commitment * commitment

    @torch.no_grad()
    def restart_dead_codes(self, quantized: Quantized, rng: torch.Generator, decay: float = 0.99) -> int:
        """Move codes that are hardly used onto random latents of the batch; called after the optimizer's step.

        Returns:
            how many codes were restarted.
        """
        counts = torch.bincount(quantized.ids.flatten(), minlength=self.vocab_size).float()
        self.use.mul_(decay).add_(counts / counts.sum(), alpha=1 - decay)
        dead = (self.use < self.config.restart_below / self.vocab_size).nonzero().flatten()
        if len(dead):
            latents = quantized.before.detach().flatten(0, -2)
            self.codes[dead] = latents[torch.randint(len(latents), (len(dead),), generator=rng).to(latents.device)]
            self.use[dead] = 1 / self.vocab_size
        return len(dead)

    @staticmethod
    def _nearest(latents: Tensor, codes: Tensor, rows: int = 8192) -> Tensor:
        """Index of the code with the largest cosine, in chunks of rows: the whole product would not fit in memory."""
        flat = latents.flatten(0, -2)
        ids = [(chunk @ codes.T).argmax(-1) for chunk in flat.split(rows)]
        return torch.cat(ids).view(latents.shape[:-1])


def code_usage(ids: Tensor, vocab_size: int) -> tuple[float, float]:
    """Perplexity of the codes in `ids` (1..V) and the share of the V codes that occur (0..1)."""
    counts = torch.bincount(ids.flatten(), minlength=vocab_size).double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return float(entropy.exp()), float((counts > 0).double().mean())
