"""A learned codebook of l2-normalised, factorized (low-dimensional) codes (ViT-VQGAN 2110.04627; paper, B.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.tokenizers.quantizers.base import Quantized, Quantizer, QuantizerConfig, distance, in_float32

_PRODUCT = 2**22  # cosines that are held at a time: those of all latents and codes would not fit in memory
_LATENTS_PER_CODE = 4  # with fewer, a cluster is hardly more than one latent


class Codebook(Quantizer):
    """The code of the smallest angle. Codes learn by gradients or as moving averages; those that died start anew."""

    def __init__(self, config: QuantizerConfig, width: int):
        super().__init__(config, width, config.code_dim)
        codes = F.normalize(torch.randn(config.codebook_size, config.code_dim), dim=-1)
        if config.update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("use", torch.full((config.codebook_size,), 1 / config.codebook_size))
        if config.init == "kmeans":
            self.register_buffer("started", torch.tensor(0))  # codes that have been placed, the first ones

    def quantize(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = F.normalize(projected, dim=-1)
        codes = F.normalize(self.codes, dim=-1)
        ids = nearest(before, codes)
        return before, F.embedding(ids, codes), ids

    def indices_to_codes(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, F.normalize(self.codes, dim=-1))

    @in_float32
    def losses(self, quantized: Quantized) -> dict[str, Tensor]:
        """Codebook and commitment loss (1711.00937, equation 3), mean over latents of the squared distance.

        Codes that are moving averages have no codebook loss (the same, appendix A.1).
        """
        before, after = quantized.before, quantized.after
        terms = {"commitment": distance(before, after.detach())}
        if self.config.update == "gradient":
            terms["codebook"] = distance(before.detach(), after)
        return terms

    @torch.no_grad()
    def statistics(self, quantized: Quantized) -> tuple[Tensor, ...]:
        """Uses (V,) of each code, and for moving averages the sums (V, d) of the latents that chose it."""
        counts = torch.bincount(quantized.ids.flatten(), minlength=self.vocab_size).float()
        if self.config.update == "gradient":
            return (counts,)
        return counts, _sums(_flat(quantized.before), quantized.ids.flatten(), self.vocab_size)

    @torch.no_grad()
    def update(self, statistics: tuple[Tensor, ...], quantized: Quantized, rng: torch.Generator) -> int:
        """Place codes on clusters until all have started; then average codes and uses, and restart dead codes."""
        latents = _flat(quantized.before)
        if self.config.init == "kmeans" and self.started < self.vocab_size:
            return self._start(latents, rng)
        self._average(*statistics)
        return self._restart(latents, rng)

    def _start(self, latents: Tensor, rng: torch.Generator) -> int:
        """Place the next codes on clusters of the latents: as many as these can tell."""
        first = int(self.started)
        count = min(self.vocab_size - first, max(1, len(latents) // _LATENTS_PER_CODE))
        self.codes[first : first + count] = kmeans(latents, count, rng)
        self.started += count
        return count

    def _average(self, counts: Tensor, sums: Tensor | None = None) -> None:
        """Moving averages of the uses, as shares of all, and of the latents that chose each code."""
        new = (1 - self.config.decay) * counts / counts.sum()
        self.use.mul_(self.config.decay).add_(new)
        if sums is not None:
            means = sums / counts.clamp_min(1)[:, None]
            weight = new / self.use.clamp_min(torch.finfo(self.use.dtype).tiny)
            self.codes.lerp_(means, weight[:, None])

    def _restart(self, latents: Tensor, rng: torch.Generator) -> int:
        """Move codes that are hardly used onto random latents."""
        dead = (self.use < self.config.dead_code_threshold / self.vocab_size).nonzero().flatten()
        self.codes[dead] = latents[torch.randint(len(latents), (len(dead),), generator=rng).to(latents.device)]
        self.use[dead] = 1 / self.vocab_size
        return len(dead)


@torch.no_grad()
@in_float32
def nearest(latents: Tensor, codes: Tensor) -> Tensor:
    """Index (...) of the code (V, d) with the largest cosine with each unit vector (..., d)."""
    flat = _flat(latents)
    rows = max(1, min(len(flat), _PRODUCT // len(codes)))
    cosines = flat.new_empty(rows, len(codes))  # one for all chunks: taken anew for each, it would fragment the memory
    ids = [torch.mm(chunk, codes.T, out=cosines[: len(chunk)]).argmax(-1) for chunk in flat.split(rows)]
    return torch.cat(ids).view(latents.shape[:-1])


def kmeans(latents: Tensor, count: int, rng: torch.Generator, iterations: int = 10) -> Tensor:
    """Spherical k-means: `count` unit vectors in the middle of clusters of unit vectors (N, d), N >= `count`."""
    centres = latents[torch.randperm(len(latents), generator=rng)[:count].to(latents.device)]
    for _ in range(iterations):
        sums = _sums(latents, nearest(latents, centres), count)
        centres = F.normalize(torch.where(sums.any(-1, keepdim=True), sums, centres), dim=-1)  # nobody's stay
    return centres


def _sums(latents: Tensor, ids: Tensor, count: int) -> Tensor:
    """Sums (count, d) of the latents (N, d) with each id (N)."""
    return latents.new_zeros(count, latents.shape[-1]).index_add_(0, ids, latents)


def _flat(latents: Tensor) -> Tensor:
    return latents.detach().flatten(0, -2)
