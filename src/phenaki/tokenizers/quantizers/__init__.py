"""Quantizers: continuous latents to one of V codes and back, with one interface (`base.py: Quantizer`)."""

from phenaki.tokenizers.quantizers.base import Quantized, Quantizer, QuantizerConfig, code_usage
from phenaki.tokenizers.quantizers.codebook import Codebook
from phenaki.tokenizers.quantizers.fsq import FSQ
from phenaki.tokenizers.quantizers.lookup_free import LookupFree

QUANTIZERS = {"fsq": FSQ, "codebook": Codebook, "lookup_free": LookupFree}


def build_quantizer(config: QuantizerConfig, width: int) -> Quantizer:
    """The quantizer of a configuration, for latents of this width."""
    return QUANTIZERS[config.kind](config, width)
