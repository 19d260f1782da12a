"""The part of a session that runs on the model: its world, and what was recorded of it. It lives in a worker."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phenaki.core.errors import PhenakiError, shortened
from phenaki.media.convert import Frames
from phenaki.pipeline import Event, LiveWorld, Phenaki, World, step_together
from phenaki.play.inputs import check_steps, merge
from phenaki.play.protocol import Adjust, Message, Move, Press, Release, Say, Start
from phenaki.play.recording import Recorder, Recording, decode_base64, to_picture

_FIRST_STEPS = 16  # that are kept


@dataclass
class Made:
    """What became of inputs: a latent frame with its number, unless there is a pause, errors with the ids of the
    inputs, and notes. `applied`: id of the last input. `started`: of a video that begins."""

    errors: list[tuple[int, str]]
    notes: list[str]
    started: dict[str, Any] | None = None
    clip: Frames | None = None
    number: int = 0
    applied: int = 0
    seconds: float = 0.0


def public_name(model: Phenaki) -> str:
    """Of the model; of a folder the last part, since clients read it."""
    return Path(model.name).name if os.path.isabs(model.name) else model.name


class FirstSteps:
    """States and frames of worlds after their first step, the last 16. A first frame takes several times as long as a
    later one, and many clients begin with the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[dict[str, Any], Frames]] = {}
        self._lock = threading.Lock()

    def step(self, world: World, options: Mapping[str, float]) -> Frames:
        """The first frames of a world that nothing was done in, played with these options."""
        if not isinstance(world, LiveWorld):
            return world.step()
        key = world.prompt, world.seed, *sorted(options.items())
        with self._lock:
            known = self._known.pop(key, None)
        if known is None:
            clip = world.step()
            known = world.state(), clip
        else:
            world.restore(known[0])
        with self._lock:
            self._known[key] = known  # the last to be forgotten
            for forgotten in list(self._known)[:-_FIRST_STEPS]:
                del self._known[forgotten]
        return known[1]


class Player:
    """The video of one session. world: None before the first start. first: the start, if nothing else was said to a
    world that has no frame yet."""

    def __init__(self, model: Phenaki, threads: int, first_steps: FirstSteps) -> None:
        self.model, self.threads = model, threads
        self._first_steps = first_steps
        self.world: World | None = None
        self._recorder: Recorder | None = None
        self._applied = 0  # id of the last input
        self.first: Start | None = None
        self._notes: list[str] = []
        spec = model.generator.config.actions if model.generator.has_cache else None
        kinds = {} if spec is None else dict(zip(spec.names, spec.kinds, strict=True))
        self._relative = frozenset(name for name, kind in kinds.items() if kind == "relative")

    def begin(
        self, prompt: str, seed: int, options: Mapping[str, float], picture: str, events: tuple[Event, ...] = ()
    ) -> None:
        """Begin a video. `picture`: a file in base64, or "". Raises PhenakiError for what does not fit."""
        check_steps(options)
        for event in events:
            check_steps({event.name: event.value})
        data = decode_base64(picture)
        fitted = to_picture(data, self.model.image_size) if data else ""
        name, options = public_name(self.model), dict(options)
        recording = Recording(name, "", prompt, seed, options, events, threads=self.threads, picture=fitted)
        world = recording.open(self.model)
        self._recorder, self.world = Recorder(recording, world, self.model.fps), world

    def apply(self, inputs: list[Message]) -> Made:
        """Apply the inputs; what is returned has no latent frame yet."""
        errors, started = [], None
        messages = merge(inputs, self._relative)
        for message in messages:
            try:
                started = self._apply(message) or started
            except PhenakiError as error:
                errors.append((message.id, str(error)))
        notes, self._notes = self._notes, []
        self._applied = next((message.id for message in reversed(inputs) if message.id), self._applied)
        self.first = messages[0] if started and len(messages) == 1 and not messages[0].picture else None
        return Made(errors, notes, started)

    def snapshot(self) -> tuple[Frames, Recording]:
        """The last minute, and all that it depends on. Raises PhenakiError if there is no frame yet."""
        if self._recorder is None:
            raise PhenakiError("there is no frame to save yet")
        return self._recorder.snapshot()

    def _apply(self, message: Message) -> dict[str, Any] | None:
        world = self.world
        match message:
            case Start():
                self.begin(message.prompt, message.seed, message.options, message.picture)
                self._note_words(message.prompt)
                return {"id": message.id, "prompt": message.prompt, "seed": message.seed}
            case _ if world is None:
                raise PhenakiError(f"there is no video yet to {message.type}: send a start first")
            case Say():
                world.say(message.prompt)
                self._note_words(message.prompt)
            case Press():
                world.press(message.action)
            case Release():
                world.release(message.action)
            case Move():
                world.move(message.action, message.value)
            case Adjust():
                check_steps({message.option: message.value})
                world.adjust(message.option, message.value)
        return None

    def add(self, made: Made, clip: Frames, seconds: float) -> None:
        """Record the frames of a step, and complete what became of its inputs."""
        self._recorder.add(clip)
        made.clip, made.number, made.applied, made.seconds = clip, self.world.latent_frames, self._applied, seconds

    def first_step(self) -> Frames:
        """The first frames of a world to which nothing but its start was said."""
        return self._first_steps.step(self.world, self.first.options)

    def _note_words(self, prompt: str) -> None:
        domain = self.model.domain
        if unknown := domain.unknown_words([prompt]):
            knows = domain.subject or "the words of its captions"
            self._notes.append(f"the model knows {knows} only; words that are new to it: {shortened(unknown, 6)}")


Turn = tuple[Player, list[Message], bool]
"""A player, its inputs, and whether its video goes on."""


def make_together(turns: Sequence[Turn]) -> list[Made | PhenakiError]:
    """For each player apply the inputs and, while its video goes on, make a latent frame, those that fit together in
    one batch. Errors are of single players."""
    results: list[Made | PhenakiError] = [player.apply(inputs) for player, inputs, _ in turns]
    stepping: list[tuple[Player, Made]] = []
    for number, (player, _, playing) in enumerate(turns):
        if playing and player.world is not None:
            try:
                player.world.apply_due()
            except PhenakiError as error:
                results[number] = error
            else:
                stepping.append((player, results[number]))
    began = time.perf_counter()
    later = [player.world for player, _ in stepping if player.first is None]
    clips = iter(step_together(later))
    made = [next(clips) if player.first is None else player.first_step() for player, _ in stepping]
    seconds = time.perf_counter() - began
    for (player, result), clip in zip(stepping, made, strict=True):
        player.add(result, clip, seconds)
    return results
