"""Text to video: a causal video tokenizer, a masked video transformer, and tools to train, sample and evaluate them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phenaki.core.errors import PhenakiError
from phenaki.core.version import __version__

if TYPE_CHECKING:
    from phenaki.pipeline import Generation, Phenaki, load

__all__ = ["Generation", "Phenaki", "PhenakiError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import phenaki` does not load torch."""
    if name not in __all__:
        raise AttributeError(f"module 'phenaki' has no attribute '{name}'")
    value = getattr(import_module("phenaki.pipeline"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
