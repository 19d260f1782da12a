"""Lookup-free quantization (MAGVIT-v2, 2310.05737, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from phenaki.tokenizers.quantizers.base import Quantized, Quantizer, QuantizerConfig, distance, in_float32


class LookupFree(Quantizer):
    """Each of log2 V dimensions is rounded to its sign, -1 or 1; the first dimension is the lowest bit of an id."""

    def __init__(self, config: QuantizerConfig, width: int):
        super().__init__(config, width, config.codebook_size.bit_length() - 1)

    def quantize(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bits = projected > 0
        ids = (bits.long() << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)
        return projected, bits * 2.0 - 1, ids

    def indices_to_codes(self, ids: Tensor) -> Tensor:
        return _signs(ids, self.project_out.in_features)

    @in_float32
    def losses(self, quantized: Quantized) -> dict[str, Tensor]:
        """Commitment (mean squared distance) and entropy (equation 5).

        Entropy, in nats: that of each latent's code (should be low) minus that of the batch's codes (should be high).
        """
        logits = 2 * quantized.before.flatten(0, -2) / self.config.entropy_temperature
        return {
            "commitment": distance(quantized.before, quantized.after.detach()),
            "entropy": _latent_entropy(logits) - _batch_entropy(logits),
        }


# The probability of code c for latent x is a softmax over codes of -|x - c|^2 / temperature. As |c|^2 is equal for all
# codes, this is softmax(logits @ c) with logits 2 x / temperature, which factorizes over the dimensions.


def _latent_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the codes of latents (N, d): the sum over dimensions of the entropy of a sign."""
    odds = 2 * logits.abs()  # log-odds of the sign of x
    return (F.softplus(-odds) + odds * torch.sigmoid(-odds)).sum(-1).mean()


def _batch_entropy(logits: Tensor) -> Tensor:
    """Exact entropy of the mean code probabilities of latents (N, d).

    The mean is a matrix product of the probabilities of both halves of the dimensions: N x sqrt(V) values, not N x V.
    """
    left, right = (_probabilities(half) for half in logits.tensor_split(2, dim=-1))
    mean = left.T @ right / len(logits)
    return -(mean * mean.clamp_min(1e-12).log()).sum()


def _probabilities(logits: Tensor) -> Tensor:
    """Logits (N, d) -> probabilities of the 2^d sign vectors, (N, 2^d)."""
    d = logits.shape[-1]
    return (logits @ _signs(torch.arange(2**d, device=logits.device), d).T).softmax(-1)


def _signs(ids: Tensor, count: int) -> Tensor:
    """The lowest `count` bits of ids (...), as -1.0 and 1.0: (..., count)."""
    return (ids[..., None] >> torch.arange(count, device=ids.device) & 1) * 2.0 - 1
