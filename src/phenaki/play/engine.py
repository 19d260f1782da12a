"""Threads that run the model, and the sessions that take turns on them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from phenaki.core.errors import PhenakiError
from phenaki.media.convert import Frames
from phenaki.pipeline import LiveWorld, Phenaki, World

Result = TypeVar("Result")

_SMALL = 100e6  # parameters; on a CPU, a smaller network is slower on several threads than on one
_FIRST_STEPS = 16  # that are kept
_UTILIZATION = 0.8  # of the threads, that sessions are admitted for


class Engine:
    """Runs functions on a model in worker threads, never on the event loop, and in the order in which they come."""

    def __init__(self, model: Phenaki) -> None:
        self.model = model
        cores = os.cpu_count() or 1
        small = sum(weight.numel() for weight in model.generator.parameters()) < _SMALL
        on_cpu = model.device.type == "cpu"
        self.workers = cores if on_cpu and small else 1
        self.threads = 1 if self.workers > 1 else max(1, torch.get_num_threads())
        self._model = ThreadPoolExecutor(self.workers, "model", lambda: torch.set_num_threads(self.threads))
        self._files = ThreadPoolExecutor(1, "files")
        self._first_steps: dict[tuple, tuple[dict[str, Any], Frames]] = {}  # states and frames after the first step
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Of the model; of a folder the last part, since clients read it."""
        return Path(self.model.name).name if os.path.isabs(self.model.name) else self.model.name

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """On the model."""
        return await asyncio.get_running_loop().run_in_executor(self._model, function, *arguments)

    async def run_file(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Read or write a picture or a video."""
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    def measure(self, steps: int = 4) -> float:
        """Seconds per frame of a world, after steps that also warm the model up."""
        prompt = next(iter(self.model.domain.prompts), "a")

        def play() -> float:
            world = self.model.play(prompt)
            self.first_step(world, {})
            world.step()
            times = []
            for _ in range(steps):
                began = time.perf_counter()
                frames = len(world.step())
                times.append((time.perf_counter() - began) / frames)
            return sorted(times)[len(times) // 2]

        return self._model.submit(play).result()

    def first_step(self, world: World, options: Mapping[str, float]) -> Frames:
        """The first frames of a world that nothing was done in, played with these options; known ones at once.

        A first frame takes several times as long as a later one, and many clients begin with the same.
        """
        key = world.prompt, world.seed, *sorted(options.items())
        if not isinstance(world, LiveWorld):
            return world.step()
        with self._lock:
            known = self._first_steps.pop(key, None)
        if known is None:
            clip = world.step()
            known = world.state(), clip
        else:
            world.restore(known[0])
        with self._lock:
            self._first_steps[key] = known  # the last to be forgotten
            for forgotten in list(self._first_steps)[:-_FIRST_STEPS]:
                del self._first_steps[forgotten]
        return known[1]

    def capacity(self, seconds: float) -> int:
        """How many sessions these threads can serve at the model's frame rate."""
        return max(1, int(_UTILIZATION * self.workers / (seconds * self.model.fps)))

    def close(self) -> None:
        for pool in (self._model, self._files):
            pool.shutdown(wait=True, cancel_futures=True)


class Lobby:
    """At most `limit` sessions at a time; the others wait in line."""

    def __init__(self, limit: int, longest_line: int = 100) -> None:
        self.limit, self.longest_line = limit, longest_line
        self.playing = 0
        self._waiting: list[asyncio.Event] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def session(self, on_position: Callable[[int], None] | None = None) -> AsyncIterator[None]:
        """A session, after those that came before. `on_position` is called with the position in line, 1 for the next,
        whenever it changes; without it, and when the line is full, a full house is a PhenakiError."""
        if self.playing >= self.limit or self._waiting:
            if on_position is None or len(self._waiting) >= self.longest_line:
                raise PhenakiError(
                    f"all {self.limit} sessions are taken and {len(self._waiting)} wait: try again in a minute"
                )
            await self._wait(on_position)
        self.playing += 1
        try:
            yield
        finally:
            self.playing -= 1
            self._announce()

    async def _wait(self, on_position: Callable[[int], None]) -> None:
        moved = asyncio.Event()
        self._waiting.append(moved)
        try:
            while True:
                position = self._waiting.index(moved)
                if position == 0 and self.playing < self.limit:
                    return
                on_position(position + 1)
                moved.clear()
                await moved.wait()
        finally:
            self._waiting.remove(moved)
            asyncio.get_running_loop().call_soon(self._announce)  # once the session counts as playing

    def _announce(self) -> None:
        for moved in self._waiting:
            moved.set()
