"""Model cards: a README.md with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from torch import nn

from phenaki.core.errors import PhenakiError
from phenaki.core.registry import REGISTRIES

_FENCE = "---\n"


def component_card(name: str, component: nn.Module) -> str:
    """The card of a tokenizer, generator, text encoder or critic of its own."""
    kind = next(kind for kind, registry in REGISTRIES.items() if registry.name_of(type(component)))
    text = f"# {name}\n\n{_article(type(component).__name__)} of [phenaki](https://arxiv.org/abs/2210.02399).\n\n"
    code = f'```python\nimport phenaki\n\n{kind} = phenaki.load("{name}")\n```\n\n'
    return with_metadata(text + code + component_table({kind: component}), metadata([kind]))


def component_table(components: Mapping[str, nn.Module]) -> str:
    """Class and size of each component, as a table."""
    rows = ["| component | class | parameters |", "|---|---|---|"]
    for kind, network in components.items():
        millions = sum(weight.numel() for weight in network.parameters()) / 1e6
        rows.append(f"| {kind} | {type(network).__name__} | {millions:.1f} M |")
    return "\n".join(rows) + "\n"


def metadata(tags: Sequence[str], license: str = "", pipeline_tag: str = "") -> dict[str, Any]:
    """What the hub files a model under. `license`: an SPDX identifier; "": not stated."""
    found = {"library_name": "phenaki", "pipeline_tag": pipeline_tag, "license": license.lower()}
    return {key: value for key, value in found.items() if value} | {"tags": ["phenaki", *tags]}


def with_metadata(card: str, values: Mapping[str, Any]) -> str:
    """The card with these metadata added to its own, which stay as they are."""
    own, text = read_metadata(card)
    header = yaml.safe_dump(dict(values) | own, sort_keys=False, allow_unicode=True)
    return f"{_FENCE}{header}{_FENCE}\n{text}"


def read_metadata(card: str) -> tuple[dict[str, Any], str]:
    """The metadata of a card, and its text. Raises PhenakiError for metadata that are no YAML."""
    if card.startswith(_FENCE) and (end := card.find(f"\n{_FENCE}", 3)) >= 0:
        try:
            values = yaml.safe_load(card[len(_FENCE) : end])
        except Exception as error:  # also of dates and nesting
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise PhenakiError(
                f"the metadata at the top of the model card, README.md, cannot be read: {reason}"
            ) from error
        if isinstance(values, dict):
            return values, card[end + 1 + len(_FENCE) :].lstrip("\n")
    return {}, card


def _article(name: str) -> str:
    return f"{'An' if name[0] in 'AEIOU' else 'A'} `{name}`"
