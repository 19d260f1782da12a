"""Metrics in a JSON file: blocks by name, each with its protocol, all of one model and one set of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object, write_atomic

SUITES = ("reconstruction", "generation", "prompts", "stories", "live", "actions")

_OTHER_FILE = "It is not a metrics file written by `phenaki evaluate --out`: choose another file"


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> list[str]:
    """Write the blocks of `metrics` to a JSON file, replacing blocks of the same names in it.

    Blocks of different protocols are never mixed: a block of the file measured with another model, commit, seed or
    sampling is dropped. Returns a sentence for each dropped block. Without metrics nothing is written; it only checks,
    before hours of work, that the file can be. Raises PhenakiError if it cannot, or is not a metrics file.
    """
    kept, dropped = {}, []
    for name, block in read_metrics(Path(path)).items():
        differs = next((key for new in metrics.values() if (key := _difference(block, new))), None)
        if differs and name not in metrics:
            dropped.append(f"dropped the {name} metrics from '{path}': they were measured with another {differs}")
        else:
            kept[name] = block
    merged = kept | dict(metrics)
    with suppress(_OnlyChecked), write_atomic(path, "w") as file:
        if not metrics:
            raise _OnlyChecked
        json.dump({name: merged[name] for name in SUITES if name in merged}, file, indent=2)
        file.write("\n")
    return dropped


def read_metrics(path: Path) -> dict[str, Any]:
    """The blocks of a file written by `write_metrics`, none if it does not exist. Raises PhenakiError for others."""
    if not path.is_file():
        return {}
    try:
        found = parse_json_object(path.read_bytes(), f"'{path}'")
    except PhenakiError as error:
        raise PhenakiError(f"{error} {_OTHER_FILE}") from error
    if not all(name in SUITES and _is_block(block) for name, block in found.items()):
        raise PhenakiError(f"'{path}' has other things than metrics. {_OTHER_FILE}")
    return found


def _is_block(block: Any) -> bool:
    """Whether it has a protocol that names its model."""
    protocol = block.get("protocol") if isinstance(block, dict) else None
    return isinstance(protocol, dict) and isinstance(protocol.get("model"), dict)


class _OnlyChecked(Exception):
    """Leaves the block of `write_atomic` before the file takes its name."""


def _difference(block: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key on which both protocols disagree."""
    one, two = (dict(each["protocol"]) for each in (block, other))
    for protocol in (one, two):
        protocol |= protocol.pop("model")
        for own in ("seconds", "split", "objects"):  # these differ between blocks
            protocol.pop(own, None)
    return next((key for key in one if key in two and one[key] != two[key]), None)
