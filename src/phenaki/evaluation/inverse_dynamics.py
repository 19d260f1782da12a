"""An inverse dynamics model: which buttons were pressed between two frames (VPT, 2206.11795, section 3).

Trained on real clips, it scores whether generated frames do what the keys say, and whether they are pictures of the
world at all.

Shapes: B batch, T frames, N = T - 1 transitions, A buttons.
"""

from __future__ import annotations

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


class Transitions(NamedTuple):
    """Log-odds of each transition: `pressed` (B, N, A), that a button was pressed in it, and `real` (B, N), that it is
    one of the recordings'."""

    pressed: Tensor
    real: Tensor


@configclass
class InverseDynamicsConfig:
    """widths: channels of the stages, each of which halves rows and columns. buttons, size (height, width), fps: of
    the recordings that it was trained on."""

    buttons: tuple[str, ...] = ()
    size: tuple[int, int] = bounded((64, 64), at_least=16)
    fps: float = bounded(8.0, above=0)
    widths: tuple[int, ...] = bounded((32, 64, 128, 128), at_least=_GROUPS)
    hidden: int = bounded(256, at_least=1)


class InverseDynamics(nn.Module):
    """video float (B, 3, T, H, W) in [0, 1] -> Transitions; each transition is scored from its two frames alone."""

    def __init__(self, config: InverseDynamicsConfig):
        super().__init__()
        self.config = config
        stages, inputs = [], 9  # both frames, and their difference
        for width in config.widths:
            stages += [nn.Conv2d(inputs, width, 3, 2, 1), nn.GroupNorm(_GROUPS, width), nn.SiLU()]
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(inputs * _POOLED[0] * _POOLED[1], config.hidden)
        self.head = nn.Linear(config.hidden, len(config.buttons) + 1)

    def forward(self, video: Tensor) -> Transitions:
        frames = video.transpose(1, 2)
        before, after = frames[:, :-1], frames[:, 1:]
        pairs = torch.cat((before, after, after - before), dim=2).flatten(0, 1) * 2 - 1
        features = F.adaptive_avg_pool2d(self.stages(pairs), _POOLED).flatten(1)
        logits = self.head(F.silu(self.hidden(features))).float().unflatten(0, before.shape[:2])
        return Transitions(logits[..., :-1], logits[..., -1])

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
