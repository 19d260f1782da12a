"""Text encoders behind one contract (base.py). `words`: bytes grouped to words, trained with the generator."""

from phenaki.text.base import Text, TextEncoder
from phenaki.text.words import WordEncoder, WordEncoderConfig

REGISTRY = {"words": (WordEncoderConfig, WordEncoder)}

__all__ = ["REGISTRY", "Text", "TextEncoder", "WordEncoder", "WordEncoderConfig"]
