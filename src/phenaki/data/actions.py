"""Action tables beside media files, NAME.actions.npy, and the `actions` in dataset.json that name their columns."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from phenaki.core.actions import ActionSpec
from phenaki.core.config import from_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.files import parse_json_object
from phenaki.core.reading import read_regular
from phenaki.data.sample import EncodedSample
from phenaki.data.storage import join, read_optional

DATASET = "dataset.json"
FIELD = "actions.npy"  # of a sample, in its shard
SUFFIX = f".{FIELD}"
_MAX_BYTES = 2**28  # of a table


def read_action_spec(folder: str) -> ActionSpec | None:
    """The `actions` in the dataset.json of a folder, local or remote; None if there are none."""
    path = join(folder, DATASET)
    data = read_optional(path)
    if data is None:
        return None
    spec = parse_json_object(data, f"'{path}'").get("actions")
    return from_dict(ActionSpec, spec, where=f"the actions in '{path}'") if spec else None


def common_spec(specs: Mapping[str, ActionSpec | None]) -> ActionSpec | None:
    """The spec of all sources, by uri, that have actions; None if none has. Raises PhenakiError if specs differ."""
    found = [(uri, spec) for uri, spec in specs.items() if spec]
    for uri, spec in found[1:]:
        if spec != found[0][1]:
            raise PhenakiError(
                f"the actions of '{found[0][0]}' are {found[0][1]}, and those of '{uri}' {spec}: "
                "all sources with actions need the same names and kinds, in the same order"
            )
    return found[0][1] if found else None


def read_table(item: EncodedSample, spec: ActionSpec, frames: int) -> np.ndarray:
    """The action table float32 (T, A) of a recording of T `frames`; pictures need none. Raises BadSample."""
    if item.actions is None and frames > 1:
        raise BadSample(f"it has no action table (NAME{SUFFIX})")
    if frames == 1:
        return np.zeros((1, len(spec)), np.float32)
    try:
        data = item.actions if isinstance(item.actions, bytes) else read_regular(item.actions, _MAX_BYTES)
        table = np.load(io.BytesIO(data), allow_pickle=False)
    except FileNotFoundError as error:
        raise BadSample(f"it has no action table '{item.actions.name}'") from error
    except Exception as error:  # whatever a parser raises
        raise BadSample(f"its action table cannot be read: {error}") from error
    if not isinstance(table, np.ndarray):
        raise BadSample("its action table is an archive of arrays; a single array saved with numpy.save is needed")
    return spec.check(table, frames)


def compact(rows: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """As stored: uint8 if all actions are buttons, else float32."""
    return rows.astype(np.uint8 if set(spec.kinds) == {"button"} else np.float32)


def to_npy(rows: np.ndarray, spec: ActionSpec) -> bytes:
    """The bytes of a table's file."""
    file = io.BytesIO()
    np.save(file, compact(rows, spec))
    return file.getvalue()
