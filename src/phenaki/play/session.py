"""One video and the client that steers it: when a latent frame is made, and which ones are sent.

Nothing is made ahead: at the model's frame rate, a latent frame is begun when the one before has had its time, and
otherwise when the client has shown the one before. A client that is slow misses latent frames; one that shows nothing
for a while stops its video, and never anybody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from phenaki.core.errors import PhenakiError
from phenaki.play.engine import Engine
from phenaki.play.player import Made
from phenaki.play.protocol import (
    Ack,
    Message,
    Pause,
    Resume,
    Speed,
    Start,
    pack_frames,
)

UNSHOWN = 2  # latent frames that may be on their way to a client
ACK_TIMEOUT = 2.0  # seconds; a client that shows nothing for longer stops its video
_MOST_INPUTS = 1_000  # that wait for a latent frame
_LATE = 0.5  # of a latent frame: what a late one may be made up for


class Session:
    """Call `put` with a client's messages, `play` runs the video and `send` yields what is to be sent."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.started = False  # whether there is a video
        self.last_input = time.monotonic()
        self.dropped = 0  # latent frames in all
        self.asked = asyncio.Event()  # set when there is something to play
        self.connection = asyncio.Lock()  # held by the one client
        self.replaced = asyncio.Event()  # set when another connection takes up the session
        self.task: asyncio.Task[None] | None = None  # that runs it
        self._inputs: list[Message] = []
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
            made = await self.engine.make(self.name, inputs, not self._paused)
            for number, sentence in made.errors:
                self.reply(type="error", id=number, message=sentence)
            for sentence in made.notes:
                self.reply(type="note", message=sentence)
            if made.started is not None:
                self.started = True
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
        if self._paused or not self.started:
            return 0.0 if self._inputs else None
        if self._unshown and now - self._last_ack > ACK_TIMEOUT:
            return None
        if self._fast and self._unsent is None and len(self._unshown) < UNSHOWN:
            return 0.0
        return self._due - now
