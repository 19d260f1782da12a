"""A learned codebook of l2-normalised, factorized (low-dimensional) codes (ViT-VQGAN 2110.04627; paper, B.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.precision import to_device
from phenaki.tokenizers.quantizers.base import Quantized, Quantizer, QuantizerConfig, distance, in_float32

_COSINES, _GPU_COSINES = 2**22, 2**28  # per chunk: all latents times all codes would not fit in memory
_LATENTS_PER_CODE = 4  # with fewer, clusters are hardly more than single latents


class Codebook(Quantizer):
    """The nearest code by angle. Codes learn by gradients or as moving averages; dead codes are reset."""

    def __init__(self, config: QuantizerConfig, width: int):
        super().__init__(config, width, config.code_dim)
        codes = F.normalize(torch.randn(config.codebook_size, config.code_dim), dim=-1)
        if config.update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("use", torch.full((config.codebook_size,), 1 / config.codebook_size))
        if config.init == "kmeans":
            self.register_buffer("started", torch.tensor(0))  # how many codes are initialised
        self._initialized = False

    def quantize(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = F.normalize(projected, dim=-1)
        codes = F.normalize(self.codes, dim=-1)
        ids = nearest(before, codes)
        return before, F.embedding(ids, codes), ids

    def indices_to_codes(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, F.normalize(self.codes, dim=-1))

    @in_float32
    def losses(self, quantized: Quantized) -> dict[str, Tensor]:
        """Codebook and commitment loss (1711.00937, equation 3): mean squared distances.

        With moving averages there is no codebook loss (ibid., appendix A.1).
        """
        before, after = quantized.before, quantized.after
        terms = {"commitment": distance(before, after.detach())}
        if self.config.update == "gradient":
            terms["codebook"] = distance(before.detach(), after)
        return terms

    @torch.no_grad()
    def statistics(self, quantized: Quantized) -> tuple[Tensor, ...]:
        """Counts (V,) of each code and, for moving averages, sums (V, d) of the latents assigned to it."""
        ids = quantized.ids.flatten()
        ones = torch.ones(len(ids), device=ids.device)
        counts = ones.new_zeros(self.vocab_size).index_add_(0, ids, ones)
        if self.config.update == "gradient":
            return (counts,)
        return counts, _sums(_flat(quantized.before), quantized.ids.flatten(), self.vocab_size)

    @property
    def learns(self) -> bool:
        return True

    @torch.no_grad()
    def update(self, statistics: tuple[Tensor, ...], quantized: Quantized, rng: torch.Generator) -> int | Tensor:
        """Initialise codes by k-means until all are; then update the averages and reset dead codes."""
        latents = _flat(quantized.before)
        if not self._is_initialized():
            return self._initialize(latents, rng)
        self._average(*statistics)
        return self._reset_dead(latents, rng)

    def _is_initialized(self) -> bool:
        """Asked of the device until it is so, and then known."""
        self._initialized = self._initialized or self.config.init != "kmeans" or bool(self.started >= self.vocab_size)
        return self._initialized

    def _initialize(self, latents: Tensor, rng: torch.Generator) -> int:
        """Set as many of the remaining codes as the latents allow to cluster centres."""
        first = int(self.started)
        count = min(self.vocab_size - first, max(1, len(latents) // _LATENTS_PER_CODE))
        self.codes[first : first + count] = kmeans(latents, count, rng)
        self.started += count
        return count

    def _average(self, counts: Tensor, sums: Tensor | None = None) -> None:
        """Update the moving averages of usage (as fractions) and of the latents assigned to each code."""
        new = (1 - self.config.decay) * counts / counts.sum()
        self.use.mul_(self.config.decay).add_(new)
        if sums is not None:
            means = sums / counts.clamp_min(1)[:, None]
            weight = new / self.use.clamp_min(torch.finfo(self.use.dtype).tiny)
            self.codes.lerp_(means, weight[:, None])

    def _reset_dead(self, latents: Tensor, rng: torch.Generator) -> Tensor:
        """Set rarely used codes to random latents, without knowing how many there are: the n-th dead one takes the n-th
        of as many numbers as there are codes."""
        dead = self.use < self.config.dead_code_threshold / self.vocab_size
        random = to_device(torch.randint(len(latents), (self.vocab_size,), generator=rng), latents.device)
        selected = latents[random[(dead.cumsum(0) - 1).clamp_min(0)]]
        self.codes.copy_(torch.where(dead[:, None], selected, self.codes))
        self.use.masked_fill_(dead, 1 / self.vocab_size)
        return dead.sum()


@torch.no_grad()
@in_float32
def nearest(latents: Tensor, codes: Tensor) -> Tensor:
    """Index (...) of the code (V, d) with the largest cosine to each unit vector (..., d)."""
    flat = _flat(latents)
    rows = max(1, min(len(flat), (_COSINES if flat.is_cpu else _GPU_COSINES) // len(codes)))
    cosines = flat.new_empty(rows, len(codes))  # reused by all chunks, or memory fragments
    ids = [torch.mm(chunk, codes.T, out=cosines[: len(chunk)]).argmax(-1) for chunk in flat.split(rows)]
    return torch.cat(ids).view(latents.shape[:-1])


def kmeans(latents: Tensor, count: int, rng: torch.Generator, iterations: int = 10) -> Tensor:
    """Spherical k-means: `count` cluster centres (unit vectors) of unit vectors (N, d), N >= `count`."""
    centres = latents[torch.randperm(len(latents), generator=rng)[:count].to(latents.device)]
    for _ in range(iterations):
        sums = _sums(latents, nearest(latents, centres), count)
        centres = F.normalize(torch.where(sums.any(-1, keepdim=True), sums, centres), dim=-1)  # empty ones stay
    return centres


def _sums(latents: Tensor, ids: Tensor, count: int) -> Tensor:
    """Sums (count, d) of the latents (N, d) with each id (N)."""
    return latents.new_zeros(count, latents.shape[-1]).index_add_(0, ids, latents)


def _flat(latents: Tensor) -> Tensor:
    return latents.detach().flatten(0, -2)
