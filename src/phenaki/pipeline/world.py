"""A video that goes on without end while it is steered, by words and by actions."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from phenaki.core.actions import ActionSpec
from phenaki.core.components import fingerprint, sha256
from phenaki.core.config import quoted, to_dict
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.version import __version__
from phenaki.generators import Components
from phenaki.media.convert import to_uint8
from phenaki.sampling import Rollout, SamplingConfig, Scene
from phenaki.sampling.causal import CausalRollout
from phenaki.sampling.causal import step_together as rollouts_together

EventKind = Literal["say", "press", "release", "move", "adjust"]

_FURTHEST = 1_000_000  # that an axis moves at a time, and the largest level; sums of them stay finite
ADJUSTABLE = ("guidance_scale", "steps", "temperature", "choice_temperature", "top_k", "top_p", "typical_p")
"""Sampling options that may change while a video runs."""


def check_adjustable(option: str) -> None:
    """Raise PhenakiError, naming the nearest, for an option that is not of ADJUSTABLE."""
    if option not in ADJUSTABLE:
        nearest = did_you_mean(str(option), ADJUSTABLE)
        raise PhenakiError(f"'{option}' cannot be adjusted: {', '.join(ADJUSTABLE)} can.{nearest}")


@dataclass(frozen=True)
class Event:
    """What was said or done before latent frame `latent_frame` was generated. `name`: the prompt, an action, or a
    sampling option."""

    latent_frame: int
    kind: EventKind
    name: str
    value: float = 0.0


class World(ABC):
    """An endless iterator of the frames of one video; `Phenaki.play` makes it.

    The same seed and the same events give the same frames on the same machine: `events` keeps what was done. An event
    takes effect in what is generated next.
    """

    spec: ActionSpec | None = None

    def __init__(
        self, components: Components, sampling: SamplingConfig, prompt: str, seed: int, events: Sequence[Event]
    ) -> None:
        self.components, self.seed, self.first_prompt = components, seed, prompt
        self.events: list[Event] = []
        if wrong := [event for event in events if not isinstance(event, Event)]:
            raise PhenakiError(f"events {quoted(wrong[0])}: pass those that a world has in `events`")
        self._replayed = deque(sorted(events, key=lambda event: event.latent_frame))
        self._sampling, self._adjusted = sampling, dict[str, float]()
        self._prompt = ""
        self._set_prompt(prompt)

    @property
    def prompt(self) -> str:
        return self._prompt

    @property
    @abstractmethod
    def latent_frames(self) -> int:
        """Generated so far."""

    def say(self, prompt: str) -> None:
        """Go on under another prompt. Raises PhenakiError for one that the model cannot read."""
        self._set_prompt(prompt)
        self._log("say", prompt)

    @abstractmethod
    def press(self, button: str) -> None:
        """Hold a button down until `release`; even if that comes at once, one latent frame sees it."""

    @abstractmethod
    def release(self, button: str) -> None: ...

    @abstractmethod
    def move(self, axis: str, value: float) -> None:
        """Move a relative axis by `value`, in all frames of the next latent frame together, or set a level."""

    def adjust(self, option: str, value: float) -> None:
        """Change a sampling option of ADJUSTABLE. Raises PhenakiError for another one, or a value out of range."""
        check_adjustable(option)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise PhenakiError(f"{option} {value!r}: give a number")
        self._set_sampling(self._adjusted | {option: float(value)})
        self._log("adjust", option, value)

    def step(self) -> np.ndarray:
        """Generate the next frames, uint8 (n, H, W, 3)."""
        return step_together([self])[0]

    __next__ = step

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    @property
    def last_ids(self) -> Tensor | None:
        """int64 (1, 1, h, w), of which the last frames were decoded; None for a world that writes whole scenes."""
        return None

    @property
    @abstractmethod
    def rollout(self) -> Rollout | CausalRollout: ...

    @abstractmethod
    def _generate(self) -> Tensor:
        """The next frames, float (1, 3, n, H, W)."""

    @cached_property
    def fingerprint(self) -> str:
        """Of the tokenizer, the generator and the text encoder."""
        parts = self.components.tokenizer, self.components.generator, self.components.text_encoder
        return "-".join(fingerprint(part)[:12] for part in parts)

    def _set_prompt(self, prompt: str) -> None:
        self.components.check_prompt(prompt)
        self._prompt = prompt

    def _set_sampling(self, adjusted: dict[str, float]) -> None:
        self.rollout.sampling = self._sampling.with_options(adjusted)
        self._adjusted = adjusted

    def apply_due(self) -> None:
        """Do what the events to be replayed say for the next step, as `step` does. Raises PhenakiError for what this
        world cannot do."""
        while self._replayed and self._replayed[0].latent_frame <= self.latent_frames:
            self._apply(self._replayed.popleft())

    def _apply(self, event: Event) -> None:
        if event.kind not in get_args(EventKind):
            raise PhenakiError(f"no event '{event.kind}': there are {', '.join(get_args(EventKind))}")
        arguments = (event.name, event.value) if event.kind in ("move", "adjust") else (event.name,)
        getattr(self, event.kind)(*arguments)

    def _log(self, kind: EventKind, name: str, value: float = 0.0) -> None:
        self.events.append(Event(self.latent_frames, kind, name, value))


class LiveWorld(World):
    """A world of a causal generator, which obeys from one latent frame to the next.

        world = model.play("a red circle obeys the arrow keys", seed=1)
        world.press("left")
        frames = world.step()  # uint8 (n, H, W, 3)
        world.say("now it turns blue")

    `start`: float (1, 3, K, H, W) in [0, 1], frames that the video continues; they are not yielded.
    """

    def __init__(
        self,
        components: Components,
        sampling: SamplingConfig,
        prompt: str,
        seed: int = 0,
        events: Sequence[Event] = (),
        start: Tensor | None = None,
    ) -> None:
        rng = torch.Generator(components.device).manual_seed(seed)
        self._rollout, self._text = CausalRollout(components, sampling, rng, start=start), None
        self.spec = components.generator.config.actions
        self._held: dict[str, float] = {}  # buttons that are down, and axes that have a level
        self._pending: dict[str, float] = {}  # taps and relative movements since the last step
        super().__init__(components, sampling, prompt, seed, events)

    @property
    def rollout(self) -> CausalRollout:
        return self._rollout

    @property
    def latent_frames(self) -> int:
        return self._rollout.latent_frames

    @property
    def last_ids(self) -> Tensor | None:
        return None if self._rollout.last is None else self._rollout.last.ids

    def press(self, button: str) -> None:
        self._check(button, "button")
        self._held[button] = self._pending[button] = 1.0
        self._log("press", button)

    def release(self, button: str) -> None:
        self._check(button, "button")
        self._held.pop(button, None)
        self._log("release", button)

    def move(self, axis: str, value: float) -> None:
        kind = self._check(axis, "relative", "level")
        if not isinstance(value, numbers.Real) or not abs(value) <= _FURTHEST:
            raise PhenakiError(f"{axis} cannot move by {value!r}: give a number from -{_FURTHEST:,} to {_FURTHEST:,}")
        if kind == "level":
            self._held[axis] = float(value)
        else:
            self._pending[axis] = self._pending.get(axis, 0.0) + value
        self._log("move", axis, value)

    def _generate(self) -> Tensor:
        """One latent frame: n = 1 for the first of the video, else the tokenizer's p."""
        return self.generate_together([self])[0]

    @staticmethod
    def generate_together(worlds: Sequence[LiveWorld]) -> list[Tensor]:
        """The next frames of worlds whose rollouts have one `batch_key`, float (1, 3, n, H, W) each."""
        texts, actions = [world._text for world in worlds], [world._actions() for world in worlds]
        videos = rollouts_together([world.rollout for world in worlds], texts, actions)
        for world in worlds:
            world._pending.clear()
        return videos

    def state(self) -> dict[str, Any]:
        """What `restore` takes, of numbers, strings and tensors, to go on with the very same frames."""
        values = {
            "version": __version__,
            "model": self.fingerprint,
            "sampling": to_dict(self._sampling),
            "seed": self.seed,
            "first_prompt": self.first_prompt,
            "prompt": self.prompt,
            "events": [asdict(event) for event in self.events],
            "held": dict(self._held),
            "pending": dict(self._pending),
            "adjusted": dict(self._adjusted),
        }
        tensors = self._rollout.state()
        return values | {"tensors": tensors, "sha256": sha256(values, tensors)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state. Raises PhenakiError for one that is incomplete, or of another model, sampling or version;
        the world then stays as it was."""
        own = {"version": __version__, "model": self.fingerprint, "sampling": to_dict(self._sampling)}
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
        self._adjusted = dict(state["adjusted"])
        self._rollout.sampling = self._sampling.with_options(self._adjusted)
        self._rollout.restore(state["tensors"])
        self.seed, self.first_prompt = state["seed"], state["first_prompt"]
        self.events = [Event(**event) for event in state["events"]]
        self._replayed.clear()
        self._held, self._pending = dict(state["held"]), dict(state["pending"])
        self._set_prompt(state["prompt"])

    def _set_prompt(self, prompt: str) -> None:
        super()._set_prompt(prompt)
        self._text = self.components.encode_text(prompt, 1)

    def _set_sampling(self, adjusted: dict[str, float]) -> None:
        cfg = self._rollout.sampling.guidance.uses_cfg
        super()._set_sampling(adjusted)
        if self._rollout.sampling.guidance.uses_cfg != cfg:  # the cache has a branch more, or one less
            self._rollout.recompute(self._text)

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
        return (row if self._rollout.begun else torch.zeros_like(row)).to(self.components.device)


class SceneWorld(World):
    """A world of a bidirectional generator, which writes whole scenes: a step is a window, a new prompt takes effect in
    the next scene, and there are no actions."""

    def __init__(
        self,
        components: Components,
        sampling: SamplingConfig,
        prompt: str,
        seed: int = 0,
        events: Sequence[Event] = (),
        start: Tensor | None = None,
    ) -> None:
        rng = torch.Generator(components.device).manual_seed(seed)
        self._rollout = Rollout(components, sampling, rng, start=start)
        self._first, self._latent_frames = start is None, 0
        self._windows: Iterator[Tensor] = iter(())
        super().__init__(components, sampling, prompt, seed, events)

    @property
    def rollout(self) -> Rollout:
        return self._rollout

    @property
    def latent_frames(self) -> int:
        return self._latent_frames

    def press(self, button: str) -> None:
        raise PhenakiError(f"no action '{button}': a bidirectional model writes whole scenes; steer it by prompts")

    release = press

    def move(self, axis: str, value: float) -> None:
        self.press(axis)

    def _generate(self) -> Tensor:
        video = next(self._windows, None)
        if video is None:
            frames = self._rollout.sampling.rollout.scene_frames or self.components.generator.config.frames
            self._windows = self._rollout.generate(Scene(self.prompt, frames if self._first else frames - 1))
            video = next(self._windows)
        self._latent_frames += math.ceil(video.shape[2] / self.components.tokenizer.patch[0])
        self._first = False
        return video


def step_together(worlds: Sequence[World]) -> list[np.ndarray]:
    """`step` of each world. Those that have come equally far, of one model and with the same sampling options, are
    computed in one batch, which takes less time; the ids of each are those that it would have alone, unless rounding
    differs."""
    batches: dict[Any, list[World]] = defaultdict(list)
    for world in worlds:
        world.apply_due()
        key = world.rollout.batch_key if isinstance(world, LiveWorld) else None
        batches[id(world) if key is None else key].append(world)
    videos: dict[int, Tensor] = {}
    for batch in batches.values():
        made = LiveWorld.generate_together(batch) if len(batch) > 1 else [batch[0]._generate()]
        videos |= {id(world): video for world, video in zip(batch, made, strict=True)}
    return [to_uint8(videos[id(world)])[0] for world in worlds]
