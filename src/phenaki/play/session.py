"""One video and the client that steers it: when a latent frame is made, and which ones are sent.

Nothing is made ahead: at the model's frame rate, a latent frame is begun when the one before has had its time, and
otherwise when the client has shown the one before. A client that is slow misses latent frames; one that shows nothing
for a while stops its video, and never anybody else's.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from phenaki.core.errors import PhenakiError, shortened
from phenaki.media.convert import Frames
from phenaki.pipeline import World
from phenaki.play.engine import Engine
from phenaki.play.inputs import check_steps, merge
from phenaki.play.protocol import (
    Ack,
    Adjust,
    Message,
    Move,
    Pause,
    Press,
    Release,
    Resume,
    Say,
    Speed,
    Start,
    pack_frames,
)
from phenaki.play.recording import Recorder, Recording, to_picture

UNSHOWN = 2  # latent frames that may be on their way to a client
ACK_TIMEOUT = 2.0  # seconds; a client that shows nothing for longer stops its video
_MOST_INPUTS = 1_000  # that wait for a latent frame
_LATE = 0.5  # of a latent frame: what a late one may be made up for


@dataclass
class Made:
    """What a worker made of the inputs: a latent frame with its number, unless there is a pause, errors with the ids of
    the inputs, and notes. `applied`: id of the last input. `started`: of a video that begins."""

    errors: list[tuple[int, str]]
    notes: list[str]
    started: dict[str, Any] | None = None
    clip: Frames | None = None
    number: int = 0
    applied: int = 0
    seconds: float = 0.0


class Session:
    """Call `put` with a client's messages, `play` runs the video and `send` yields what is to be sent."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.recorder: Recorder | None = None
        self.last_input = time.monotonic()
        self.dropped = 0  # latent frames in all
        self.asked = asyncio.Event()  # set when there is something to play
        self.connection = asyncio.Lock()  # held by the one client
        self.replaced = asyncio.Event()  # set when another connection takes up the session
        self.task: asyncio.Task[None] | None = None  # that runs it
        self._world: World | None = None
        spec = engine.model.generator.config.actions if engine.model.generator.has_cache else None
        kinds = {} if spec is None else dict(zip(spec.names, spec.kinds, strict=True))
        self._relative = frozenset(name for name, kind in kinds.items() if kind == "relative")
        self._inputs: list[Message] = []
        self._notes: list[str] = []
        self._applied = 0  # id of the last input
        self._paused, self._fast = False, False
        self._due = 0.0  # when the next latent frame is begun
        self._unshown: deque[int] = deque()  # latent frames sent and not acknowledged
        self._last_ack = 0.0
        self._unsent: Made | None = None
        self._dropped_before = 0
        self._replies: deque[dict[str, Any]] = deque(maxlen=100)
        self._awake, self._sendable = asyncio.Event(), asyncio.Event()

    # ---- from the client

    def put(self, message: Message) -> None:
        """Take a client's message; it takes effect in the next latent frame."""
        match message:
            case Ack():
                self._acknowledge(message.latent_frame)
                return
            case Pause():
                self._paused = True
            case Resume():
                self._paused, self._due = False, 0.0
            case Speed():
                self._fast = message.fast
            case _ if not (self.asked.is_set() or isinstance(message, Start)):
                raise PhenakiError(f"there is no video yet to {message.type}: send a start first")
            case _ if len(self._inputs) >= _MOST_INPUTS:
                raise PhenakiError(f"more than {_MOST_INPUTS} inputs wait for a latent frame: send fewer")
            case _:
                if isinstance(message, Start):
                    self.asked.set()
                    self._fast, self._paused, self._due = message.fast, False, 0.0
                self._inputs.append(message)
        self.last_input = time.monotonic()
        self._awake.set()

    def _acknowledge(self, number: int) -> None:
        while self._unshown and self._unshown[0] <= number:
            self._unshown.popleft()
        self._last_ack = time.monotonic()
        self._awake.set()
        self._sendable.set()

    def rejoin(self) -> None:
        """Go on with a client whose connection broke, and what was on its way is lost."""
        self._unshown.clear()
        self._replies.clear()
        self._awake.set()
        self._sendable.set()

    def greet(self, **message: Any) -> None:
        """Send a JSON message before all others."""
        self._replies.appendleft(message)
        self._sendable.set()

    def reply(self, **message: Any) -> None:
        """Send a JSON message to the client."""
        self._replies.append(message)
        self._sendable.set()

    # ---- to the client

    async def send(self) -> dict[str, Any] | bytes:
        """The next message for the client, as soon as there is one that it can take."""
        while True:
            if self._replies:
                return self._replies.popleft()
            if self._unsent is not None and len(self._unshown) < UNSHOWN:
                made, self._unsent = self._unsent, None
                if not self._unshown:
                    self._last_ack = time.monotonic()
                self._unshown.append(made.number)
                self._awake.set()
                dropped, self._dropped_before = self._dropped_before, 0
                return pack_frames(made.number, made.applied, made.clip, dropped, made.seconds)
            self._sendable.clear()
            await self._sendable.wait()

    # ---- the video

    async def play(self) -> None:
        """Make latent frame after latent frame, until cancelled."""
        while True:
            await self._until_due()
            inputs, self._inputs = self._inputs, []
            began = time.monotonic()
            made = await self.engine.run(self._make, inputs, not self._paused)
            for number, sentence in made.errors:
                self.reply(type="error", id=number, message=sentence)
            for sentence in made.notes:
                self.reply(type="note", message=sentence)
            if made.started is not None:
                self._unshown.clear()
                self._unsent, self._dropped_before = None, 0
                self.reply(type="started", **made.started)
            if made.clip is None:
                continue
            lasts = len(made.clip) / self.engine.model.fps
            earliest = time.monotonic() if self._fast else began
            self._due = max(self._due + lasts, earliest + lasts * (1 - _LATE))
            if self._fast:
                self._due = earliest + lasts
            self._offer(made)

    def _offer(self, made: Made) -> None:
        if self._unsent is not None:
            self.dropped += 1
            self._dropped_before += 1
        self._unsent = made
        self._sendable.set()

    async def _until_due(self) -> None:
        while True:
            timeout = self._waiting_time()
            if timeout is not None and timeout <= 0:
                return
            self._awake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._awake.wait()
            except TimeoutError:
                pass

    def _waiting_time(self) -> float | None:
        """Seconds until the next latent frame is begun; None: until something happens."""
        now = time.monotonic()
        if self._paused or self._world is None:
            return 0.0 if self._inputs else None
        if self._unshown and now - self._last_ack > ACK_TIMEOUT:
            return None
        if self._fast and self._unsent is None and len(self._unshown) < UNSHOWN:
            return 0.0
        return self._due - now

    def _make(self, inputs: list[Message], playing: bool) -> Made:
        """In a worker: apply the inputs and make a latent frame."""
        errors, started = [], None
        messages = merge(inputs, self._relative)
        for message in messages:
            try:
                started = self._apply(message) or started
            except PhenakiError as error:
                errors.append((message.id, str(error)))
        notes, self._notes = self._notes, []
        self._applied = next((message.id for message in reversed(inputs) if message.id), self._applied)
        if self._world is None or not playing:
            return Made(errors, notes, started)
        began = time.perf_counter()
        if started and len(messages) == 1 and not messages[0].picture:
            clip = self.engine.first_step(self._world, messages[0].options)
        else:
            clip = self._world.step()
        seconds = time.perf_counter() - began
        self.recorder.add(clip)
        return Made(errors, notes, started, clip, self._world.latent_frames, self._applied, seconds)

    def _apply(self, message: Message) -> dict[str, Any] | None:
        world = self._world
        match message:
            case Start():
                return self._start(message)
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

    def _note_words(self, prompt: str) -> None:
        domain = self.engine.model.domain
        if unknown := domain.unknown_words([prompt]):
            knows = domain.subject or "the words of its captions"
            self._notes.append(f"the model knows {knows} only; words that are new to it: {shortened(unknown, 6)}")

    def _start(self, start: Start) -> dict[str, Any]:
        model = self.engine.model
        recording = new_recording(self.engine, start.prompt, start.seed, start.options, start.picture)
        world = recording.open(model)
        self.recorder, self._world = Recorder(recording, world, model.fps), world
        self._note_words(start.prompt)
        return {"id": start.id, "prompt": start.prompt, "seed": start.seed}


def new_recording(
    engine: Engine, prompt: str, seed: int, options: dict[str, float], picture: str, **fields: Any
) -> Recording:
    """That of a video which begins. `picture`: a file in base64, or "". Raises PhenakiError for what is none."""
    check_steps(options)
    try:
        data = base64.b64decode(picture, validate=True)
    except ValueError as error:
        raise PhenakiError(f"the picture is not in base64: {error}") from error
    fitted = to_picture(data, engine.model.image_size) if data else ""
    return Recording(engine.name, "", prompt, seed, options, threads=engine.threads, picture=fitted, **fields)
