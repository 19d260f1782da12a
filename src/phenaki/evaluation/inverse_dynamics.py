"""An inverse dynamics model: which buttons were pressed between two frames (VPT, 2206.11795, section 3).

Trained on real clips, it scores whether generated frames do what the keys say, and whether they are pictures of the
world at all.

Shapes: B batch, T frames, N = T - 1 transitions, A buttons.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phenaki.core.actions import ActionSpec
from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError
from phenaki.core.precision import autocast
from phenaki.core.registry import INVERSE_DYNAMICS

_GROUPS = 8
_POOLED = (3, 4)  # rows and columns that the last layer sees
_SCALE = 4.0  # of the cosines, so that they weigh as much as the features beside them


class Transitions(NamedTuple):
    """Log-odds of each transition: `pressed` (B, N, A), that a button was pressed in it, and `real` (B, N), that it is
    one of the recordings'."""

    pressed: Tensor
    real: Tensor


@configclass
class InverseDynamicsConfig:
    """features: channels of the stages that see each frame alone; widths: of those that see both. Each stage halves
    rows and columns, the first of `widths` excepted. reach: how far a picture may move between two frames, down and
    across, as fractions of its height and width. buttons, size (height, width), fps: of the recordings that it was
    trained on."""

    buttons: tuple[str, ...] = ()
    size: tuple[int, int] = bounded((64, 64), at_least=16)
    fps: float = bounded(8.0, above=0)
    features: tuple[int, ...] = bounded((32, 48), at_least=_GROUPS)
    widths: tuple[int, ...] = bounded((96, 96, 96), at_least=_GROUPS)
    hidden: int = bounded(256, at_least=1)
    reach: tuple[float, float] = bounded((0.1, 0.35), at_least=0, at_most=1)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(_GROUPS, outputs), nn.SiLU())


class InverseDynamics(nn.Module):
    """video float (B, 3, T, H, W) in [0, 1] -> Transitions; each transition is scored from its two frames alone.

    Between the stages that see one frame and those that see both, each place is compared with those that it may have
    moved to (FlowNet, 1504.06852, section 3): buttons move the picture.
    """

    def __init__(self, config: InverseDynamicsConfig):
        super().__init__()
        self.config = config
        channels = [3, *config.features]
        self.features = nn.Sequential(*(_stage(before, after, 2) for before, after in pairwise(channels)))
        self.reach = [
            round(part * side / 2 ** len(config.features)) for part, side in zip(config.reach, config.size, strict=True)
        ]
        down, across = (2 * cells + 1 for cells in self.reach)
        channels = [down * across + 2 * channels[-1], *config.widths]
        self.stages = nn.Sequential(
            *(_stage(before, after, 2 if number else 1) for number, (before, after) in enumerate(pairwise(channels)))
        )
        self.hidden = nn.Linear(channels[-1] * _POOLED[0] * _POOLED[1], config.hidden)
        self.head = nn.Linear(config.hidden, len(config.buttons) + 1)

    def forward(self, video: Tensor) -> Transitions:
        B, _, T, *_ = video.shape
        features = self.features(video.transpose(1, 2).flatten(0, 1) * 2 - 1).unflatten(0, (B, T))
        before, after = features[:, :-1].flatten(0, 1), features[:, 1:].flatten(0, 1)
        both = torch.cat((self._moved(before, after).to(before.dtype), before, after), dim=1)
        pooled = F.adaptive_avg_pool2d(self.stages(both), _POOLED).flatten(1)
        logits = self.head(F.silu(self.hidden(pooled))).float().unflatten(0, (B, T - 1))
        return Transitions(logits[..., :-1], logits[..., -1])

    def _moved(self, before: Tensor, after: Tensor) -> Tensor:
        """Cosines (N, displacements, h, w) of the features before, (N, D, h, w), and of those after at each
        displacement within reach."""
        h, w = before.shape[-2:]
        down, across = self.reach
        before, after = (F.normalize(part.float(), dim=1) for part in (before, after))
        after = F.pad(after, (across, across, down, down))
        rows, columns = range(2 * down + 1), range(2 * across + 1)
        cosines = [(before * after[..., y : y + h, x : x + w]).sum(1) for y in rows for x in columns]
        return _SCALE * torch.stack(cosines, dim=1)

    @torch.no_grad()
    def score(self, video: Tensor) -> Transitions:
        """As `forward`, in the precision of the device. Raises PhenakiError for videos of another size."""
        if tuple(video.shape[-2:]) != tuple(self.config.size):
            trained, size = ("{}x{}".format(*reversed(tuple(each))) for each in (self.config.size, video.shape[-2:]))
            raise PhenakiError(f"this inverse dynamics model was trained on frames of {trained}, and these have {size}")
        with autocast(video.device):
            return self(video)

    def check_actions(self, spec: ActionSpec | None) -> list[int]:
        """The columns of its buttons in such action tables. Raises PhenakiError if they have none of them."""
        names = () if spec is None else spec.names
        if missing := [name for name in self.config.buttons if name not in names]:
            raise PhenakiError(
                f"this inverse dynamics model knows the buttons {', '.join(self.config.buttons)}, and these actions "
                f"lack {', '.join(missing)}: train one on recordings with the same actions"
            )
        return [spec.index(name) for name in self.config.buttons]


INVERSE_DYNAMICS.register("frame_pairs", InverseDynamicsConfig, InverseDynamics)


def button_rates(pressed: Tensor, log_odds: Tensor) -> tuple[Tensor, Tensor]:
    """Rates (A,) at which a button is found where it was pressed, and where it was not; NaN without such transitions.

    pressed: bool (N, A). log_odds: (N, A)."""
    found = (log_odds > 0).double()
    hits, alarms = ((found * which).sum(0) / which.sum(0).double() for which in (pressed.double(), (~pressed).double()))
    return hits, alarms
