"""Text to video: a causal video tokenizer, a masked video transformer, and tools to train, sample and evaluate them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phenaki.core.errors import PhenakiError
from phenaki.core.version import __version__

if TYPE_CHECKING:
    from phenaki.conditioning import Text
    from phenaki.pipeline import Generation, LiveWorld, Phenaki, load
    from phenaki.tokenizers import Tokenizer

__all__ = ["Generation", "LiveWorld", "Phenaki", "PhenakiError", "Text", "Tokenizer", "__version__", "load"]

_ADVICE = {
    "generate": "load a model first: phenaki.load('shapes-64').generate(...)",
    "play": "load a model first: phenaki.load(FOLDER).play(...)",
    "from_pretrained": "it is phenaki.Phenaki.from_pretrained, or phenaki.load",
    "pipeline": "load a model: phenaki.load('shapes-64')",
    "models": "the command is phenaki models",
    "list_models": "the command is phenaki models",
    "read_video": "it is phenaki.media.reader.read_video",
    "export_to_video": "a result has save(path)",
    "train": "training is a command: phenaki train --help",
    "CViViT": "it is phenaki.tokenizers.CViViT",
    "MaskGit": "the generator is phenaki.generators.MaskedTransformer",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import phenaki` does not load torch."""
    if name not in __all__:
        advice = f": {_ADVICE[name]}" if name in _ADVICE else ""
        raise AttributeError(f"module 'phenaki' has no attribute '{name}'{advice}")
    value = getattr(import_module("phenaki.pipeline"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
