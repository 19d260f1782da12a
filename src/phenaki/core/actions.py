"""Actions as conditions: named buttons and axes, one row per frame, and how rows follow the frames in time.

Row i acts between frames i-1 and i; row 0 of a clip is zero. A latent frame takes the rows of its frames side by side.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from phenaki.core.config import configclass
from phenaki.core.errors import BadSample, PhenakiError, did_you_mean
from phenaki.core.grid import latent_frames

Kind = Literal["button", "relative", "level"]
KINDS: tuple[Kind, ...] = ("button", "relative", "level")


@configclass
class ActionSpec:
    """The columns of action tables.

    kinds: of each column. "button": 1 while pressed, else 0. "relative": a movement, such as of a mouse, that adds up
        over time. "level": a state, such as of a throttle, that is held.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def __post_init__(self) -> None:
        if not self.names or not all(self.names) or len(set(self.names)) < len(self.names):
            raise PhenakiError(
                f"the names of actions {list(self.names)} must be one or more, all different and none empty"
            )
        if len(self.kinds) != len(self.names):
            raise PhenakiError(
                f"{len(self.names)} names of actions and {len(self.kinds)} kinds: give one kind per name"
            )
        for name, kind in zip(self.names, self.kinds, strict=True):
            if kind not in KINDS:
                raise PhenakiError(f"the kind of action '{name}' must be one of {', '.join(KINDS)}, not {kind!r}")

    def __str__(self) -> str:
        """Such as "left (button), mouse_x (relative)"."""
        return ", ".join(f"{name} ({kind})" for name, kind in zip(self.names, self.kinds, strict=True))

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The column of an action. Raises PhenakiError, naming the nearest, for an unknown one."""
        if name not in self.names:
            nearest = did_you_mean(name, self.names)
            raise PhenakiError(f"there is no action '{name}'.{nearest} Actions: {', '.join(self.names)}")
        return self.names.index(name)

    def check(self, table: np.ndarray, frames: int) -> np.ndarray:
        """The table as float32 (T, A). Raises BadSample unless it is a valid one of a recording of T `frames`."""
        if table.ndim != 2 or table.dtype.kind not in "fbu":
            raise BadSample(
                f"its action table has shape {table.shape} and type {table.dtype}; (T, {len(self)}) of float32, uint8 "
                "or bool is needed"
            )
        if table.shape[1] != len(self):
            raise BadSample(
                f"its action table has {table.shape[1]} columns; there are {len(self)} actions: {', '.join(self.names)}"
            )
        if len(table) != frames:
            raise BadSample(f"its action table has {len(table)} rows; one per frame is needed, {frames}")
        rows = table.astype(np.float32)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise BadSample(f"its action table has {rows[row, column]} as '{self.names[column]}' in row {row}")
        if rows[0].any():
            raise BadSample("row 0 of its action table is not zero: row i acts between frames i-1 and i")
        buttons = rows[:, self._columns("button")]
        if not np.isin(buttons, (0, 1)).all():
            raise BadSample(f"a button in its action table is {buttons[~np.isin(buttons, (0, 1))][0]:g}, not 0 or 1")
        return rows

    def resample(self, table: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """The rows float32 (T, A) of a clip that shows the `frames` of a recording, int (T,), in ascending order.

        table: (N, A), of the whole recording. A row takes what lies after the previous frame of the clip, up to its
        own: buttons are OR-ed, relative axes summed, levels averaged. Where a frame is repeated nothing lies between;
        levels are held then. Row 0 is zero.
        """
        rows = np.zeros((len(frames), len(self)), np.float32)
        button, relative, level = (self._columns(kind) for kind in KINDS)
        for row, (first, last) in enumerate(zip(frames[:-1] + 1, frames[1:] + 1, strict=True), start=1):
            between = table[first:last]
            rows[row, button] = between[:, button].any(axis=0)
            rows[row, relative] = between[:, relative].sum(axis=0)
            rows[row, level] = table[min(first, last - 1) : last, level].mean(axis=0)
        return rows

    def _columns(self, kind: Kind) -> np.ndarray:
        return np.array([other == kind for other in self.kinds])


def to_latent(actions: Tensor, period: int) -> Tensor:
    """Rows (..., T, A), T = 1 + p k, as those of latent frames (..., 1 + k, p * A), p = `period`; the first is zero.

    A latent frame takes the rows of its p frames side by side: all actions of its first frame, then of its second.
    Raises PhenakiError for another T.
    """
    k = latent_frames(actions.shape[-2], period) - 1
    return F.pad(actions[..., 1:, :].reshape(*actions.shape[:-2], k, period * actions.shape[-1]), (0, 0, 1, 0))
