"""A video that goes on without end while it is steered, by words and by actions."""

from __future__ import annotations

import math
import numbers
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch

from phenaki.core.actions import ActionSpec
from phenaki.core.components import fingerprint, sha256
from phenaki.core.config import to_dict
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.version import __version__
from phenaki.generators import Components
from phenaki.media.convert import to_uint8
from phenaki.sampling import SamplingConfig
from phenaki.sampling.causal import CausalRollout

EventKind = Literal["say", "press", "release", "move"]


@dataclass(frozen=True)
class Event:
    """What was said or done before latent frame `latent_frame` was generated. `name`: the prompt, or an action."""

    latent_frame: int
    kind: EventKind
    name: str
    value: float = 0.0


class LiveWorld:
    """An endless iterator of the frames of one video; `Phenaki.play` makes it.

        world = model.play("a red circle obeys the arrow keys", seed=1)
        world.press("left")
        frames = world.step()  # uint8 (n, H, W, 3)
        world.say("now it turns blue")

    The same seed and the same events give the same frames on the same machine: `events` keeps what was done. An event
    takes effect in the latent frame that is generated next.
    """

    def __init__(
        self,
        components: Components,
        sampling: SamplingConfig,
        prompt: str,
        seed: int = 0,
        events: Sequence[Event] = (),
    ) -> None:
        rng = torch.Generator(components.device).manual_seed(seed)
        self._rollout = CausalRollout(components, sampling, rng)
        self.components, self.seed, self.first_prompt = components, seed, prompt
        self.spec: ActionSpec | None = components.generator.config.actions
        self.events: list[Event] = []
        self._replayed = deque(sorted(events, key=lambda event: event.latent_frame))
        self._held: dict[str, float] = {}  # buttons that are down, and axes that have a level
        self._pending: dict[str, float] = {}  # taps and relative movements since the last step
        self._prompt, self._text = "", None
        self._set_prompt(prompt)

    @property
    def prompt(self) -> str:
        return self._prompt

    @property
    def latent_frames(self) -> int:
        """Generated so far."""
        return self._rollout.latent_frames

    def say(self, prompt: str) -> None:
        """Go on under another prompt. Raises PhenakiError for one that the model cannot read."""
        self._set_prompt(prompt)
        self._log("say", prompt)

    def press(self, button: str) -> None:
        """Hold a button down until `release`; even if that comes at once, one latent frame sees it."""
        self._check(button, "button")
        self._held[button] = self._pending[button] = 1.0
        self._log("press", button)

    def release(self, button: str) -> None:
        self._check(button, "button")
        self._held.pop(button, None)
        self._log("release", button)

    def move(self, axis: str, value: float) -> None:
        """Move a relative axis by `value`, in all frames of the next latent frame together, or set a level."""
        kind = self._check(axis, "relative", "level")
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise PhenakiError(f"{axis} cannot move by {value!r}: give a finite number")
        if kind == "level":
            self._held[axis] = float(value)
        else:
            self._pending[axis] = self._pending.get(axis, 0.0) + value
        self._log("move", axis, value)

    def step(self) -> np.ndarray:
        """Generate one latent frame: uint8 (n, H, W, 3), n = 1 for the first of the video, else the tokenizer's p."""
        while self._replayed and self._replayed[0].latent_frame <= self.latent_frames:
            self._apply(self._replayed.popleft())
        video = self._rollout.step(self._text, self._actions())
        self._pending.clear()
        return to_uint8(video)[0]

    __next__ = step

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def state(self) -> dict[str, Any]:
        """What `restore` takes, of numbers, strings and tensors, to go on with the very same frames."""
        values = {
            "version": __version__,
            "model": self._fingerprint,
            "sampling": to_dict(self._rollout.sampling),
            "seed": self.seed,
            "first_prompt": self.first_prompt,
            "prompt": self.prompt,
            "events": [asdict(event) for event in self.events],
            "held": dict(self._held),
            "pending": dict(self._pending),
        }
        tensors = self._rollout.state()
        return values | {"tensors": tensors, "sha256": sha256(values, tensors)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state. Raises PhenakiError for one that is incomplete, or of another model, sampling or version;
        the world then stays as it was."""
        own = {"version": __version__, "model": self._fingerprint, "sampling": to_dict(self._rollout.sampling)}
        try:
            values = {name: value for name, value in state.items() if name not in ("tensors", "sha256")}
            complete = sha256(values, state["tensors"]) == state["sha256"]
        except (KeyError, TypeError, AttributeError):
            complete = False
        if not complete:
            raise PhenakiError("this state is incomplete or damaged: pass all that `state` returned")
        for name, value in own.items():
            if state[name] != value:
                raise PhenakiError(f"this state is of another {name} than this world: make one like it with `play`")
        self._rollout.restore(state["tensors"])
        self.seed, self.first_prompt = state["seed"], state["first_prompt"]
        self.events = [Event(**event) for event in state["events"]]
        self._replayed.clear()
        self._held, self._pending = dict(state["held"]), dict(state["pending"])
        self._set_prompt(state["prompt"])

    @cached_property
    def _fingerprint(self) -> str:
        parts = self.components.tokenizer, self.components.generator, self.components.text_encoder
        return "-".join(fingerprint(part)[:12] for part in parts)

    def _set_prompt(self, prompt: str) -> None:
        self.components.check_prompt(prompt)
        self._text = self.components.encode_text(prompt, 1)
        self._prompt = prompt

    def _apply(self, event: Event) -> None:
        if event.kind not in get_args(EventKind):
            raise PhenakiError(f"no event '{event.kind}': there are {', '.join(get_args(EventKind))}")
        arguments = (event.name, event.value) if event.kind == "move" else (event.name,)
        getattr(self, event.kind)(*arguments)

    def _log(self, kind: EventKind, name: str, value: float = 0.0) -> None:
        self.events.append(Event(self.latent_frames, kind, name, value))

    def _check(self, action: str, *kinds: str) -> str:
        """The kind of an action, which must be one of `kinds`."""
        known = {} if self.spec is None else dict(zip(self.spec.names, self.spec.kinds, strict=True))
        fitting = [name for name, kind in known.items() if kind in kinds]
        if not known:
            raise PhenakiError(f"no action '{action}': this model was trained without actions; steer it by prompts")
        if action not in fitting:
            there_are = f"there are {', '.join(fitting)}" if fitting else f"this model has no action of kind {kinds[0]}"
            raise PhenakiError(f"no {kinds[0]} '{action}': {there_are}.{did_you_mean(str(action), fitting)}")
        return known[action]

    def _actions(self) -> torch.Tensor | None:
        """float (1, A) of the next latent frame: one row for each of its frames, side by side."""
        if self.spec is None:
            return None
        period, rows = self.components.tokenizer.patch[0], []
        for name, kind in zip(self.spec.names, self.spec.kinds, strict=True):
            value = self._pending.get(name, self._held.get(name, 0.0))
            rows.append(value / period if kind == "relative" else value)
        row = torch.tensor(rows).repeat(period)[None]
        return (row if self.latent_frames else torch.zeros_like(row)).to(self.components.device)
