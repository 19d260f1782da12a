"""Component types by name: what the `type` of a config.json stands for.

Packages that define components register them on import; this module imports none of them. `phenaki.pipeline` imports
all of them, `phenaki.compat` included, so any component loads once it has been imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from phenaki.core.config import quoted
from phenaki.core.errors import PhenakiError, did_you_mean


class Entry(NamedTuple):
    config: type
    model: type[nn.Module]


class Registry:
    """The types of one kind of component, each with its configuration class and its model class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.types: dict[str, Entry] = {}

    def register(self, name: str, config: type, model: type[nn.Module]) -> None:
        self.types[name] = Entry(config, model)

    def __getitem__(self, name: str) -> Entry:
        if name not in self.types:
            nearest = did_you_mean(name, self.types)
            raise PhenakiError(
                f"{quoted(name)} is not a type of {self.kind}; known types: {', '.join(self.types)}.{nearest}"
            )
        return self.types[name]

    def name_of(self, model: type[nn.Module]) -> str | None:
        """The name under which exactly this class is registered, None if it is not."""
        return next((name for name, entry in self.types.items() if entry.model is model), None)

    def model_class(self, config: Any) -> type[nn.Module]:
        """The class of model that a configuration builds."""
        return next(entry.model for entry in self.types.values() if entry.config is type(config))


TOKENIZERS = Registry("tokenizer")
GENERATORS = Registry("generator")
TEXT_ENCODERS = Registry("text")
CRITICS = Registry("critic")
INVERSE_DYNAMICS = Registry("inverse_dynamics")
REGISTRIES = {
    registry.kind: registry for registry in (TOKENIZERS, GENERATORS, TEXT_ENCODERS, CRITICS, INVERSE_DYNAMICS)
}
"""By kind of component, which is also the name of its folder in a model."""
