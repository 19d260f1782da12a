"""Text to video: a causal video tokenizer, a masked video transformer, and the kit to train, sample and judge them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phenaki.core.errors import PhenakiError

if TYPE_CHECKING:
    from phenaki.pipeline import Generation, Phenaki, load

__version__ = "0.1.0"
__all__ = ["Generation", "Phenaki", "PhenakiError", "load"]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first asked for: `import phenaki` itself is quick."""
    if name not in __all__:
        raise AttributeError(f"module 'phenaki' has no attribute '{name}'")
    value = getattr(import_module("phenaki.pipeline"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
