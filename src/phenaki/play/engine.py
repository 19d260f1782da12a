"""Workers that run the model, and the sessions that take turns on them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from phenaki.core.errors import PhenakiError
from phenaki.pipeline import Phenaki
from phenaki.play.player import Made, public_name
from phenaki.play.protocol import Message, Start
from phenaki.play.worker import Worker, in_process, start_process

Result = TypeVar("Result")

_SMALL = 100e6  # parameters; on a CPU, a smaller network is slower on several threads than on one
_UTILIZATION = 0.8  # of the workers, that sessions are admitted for


class Engine:
    """Runs players on a model, never on the event loop, and in the order in which they are called. Videos that wait for
    a busy worker are then made in one batch.

    processes: workers with a copy of the model each, since two threads hold up one another in Python; 0: one worker, in
    a thread; None: one process per core for a small model on a CPU, else a thread.
    """

    def __init__(self, model: Phenaki, processes: int | None = None) -> None:
        self.model, self.name = model, public_name(model)
        if processes is None:
            small = sum(weight.numel() for weight in model.generator.parameters()) < _SMALL
            cores = os.cpu_count() or 1
            processes = cores if cores > 1 and small and model.device.type == "cpu" else 0
        self.threads = 1 if processes else torch.get_num_threads()
        self._sessions: dict[str, int] = {}  # to the numbers of their workers
        self._files = ThreadPoolExecutor(1, "files")
        self._waiting: defaultdict[int, list[_Turn]] = defaultdict(list)  # by the numbers of workers
        self._serving: dict[int, asyncio.Task[None]] = {}
        if processes:
            self._pools: list[Executor] = [self._process() for _ in range(processes)]
            self._call: Callable[..., Any] = in_process
        else:
            self._worker = Worker(model, self.threads)
            self._pools = [ThreadPoolExecutor(1, "model")]
            self._call = lambda method, *arguments: getattr(self._worker, method)(*arguments)

    def _process(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        return ProcessPoolExecutor(1, spawn, start_process, (self.model, self.threads))

    @property
    def workers(self) -> int:
        return len(self._pools)

    async def run(self, session: str, method: str, *arguments: Any) -> Any:
        """Call a method of the session's player. Raises PhenakiError if its worker has died, and starts another."""
        return await self._run(self._worker_of(session), "call", session, method, *arguments)

    async def make(self, session: str, inputs: list[Message], playing: bool = True) -> Made:
        """Apply inputs and, while `playing`, make a latent frame of the session's video. Raises PhenakiError as
        `run`."""
        number, turn = self._worker_of(session), _Turn(session, inputs, playing)
        self._waiting[number].append(turn)
        if number not in self._serving:
            self._serving[number] = asyncio.create_task(self._serve(number))
        return await turn.made

    async def _serve(self, number: int) -> None:
        """Make what waits for a worker, until nothing does."""
        try:
            while turns := self._next_turns(number):
                inputs = [(turn.session, turn.inputs, turn.playing) for turn in turns]
                try:
                    results = await self._run(number, "make", inputs)
                except Exception as error:
                    results = [error] * len(turns)
                for turn, result in zip(turns, results, strict=True):
                    turn.finish(result)
        finally:
            del self._serving[number]

    def _next_turns(self, number: int) -> list[_Turn]:
        """Those that are computed next, in one batch; a first frame takes several times as long, and is made alone."""
        waiting = [turn for turn in self._waiting[number] if not turn.made.done()]  # some sessions have ended
        starts = [turn for turn in waiting if any(isinstance(message, Start) for message in turn.inputs)]
        turns = waiting[:1] if waiting[:1] == starts[:1] else [turn for turn in waiting if turn not in starts]
        self._waiting[number] = [turn for turn in waiting if turn not in turns]
        return turns

    def _worker_of(self, session: str) -> int:
        if session not in self._sessions:
            used = Counter(self._sessions.values())
            self._sessions[session] = min(range(self.workers), key=lambda pool: used[pool])
        return self._sessions[session]

    async def _run(self, number: int, method: str, *arguments: Any) -> Any:
        pool = self._pools[number]
        try:
            call = partial(self._call, method, *arguments)
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        except BrokenProcessPool as error:
            if self._pools[number] is pool:
                self._pools[number] = self._process()
            raise PhenakiError("the process that made this video has died: begin again") from error

    def release(self, session: str) -> None:
        """Forget a session and its player."""
        if (number := self._sessions.pop(session, None)) is not None:
            try:
                self._pools[number].submit(self._call, "drop", session)
            except RuntimeError:  # the pool is closed, or its process has died
                return

    async def run_file(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Read or write a picture or a video."""
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    def measure(self, steps: int = 4) -> float:
        """Seconds per frame that a worker takes for several worlds in one batch while all workers are busy, after steps
        that also warm the model up."""
        return max([pending.result() for pending in [p.submit(self._call, "measure", steps) for p in self._pools]])

    def capacity(self, seconds: float) -> int:
        """How many sessions the workers can serve at the model's frame rate."""
        return max(1, int(_UTILIZATION * self.workers / (seconds * self.model.fps)))

    def close(self) -> None:
        for pool in (*self._pools, self._files):
            pool.shutdown(wait=True, cancel_futures=True)


class _Turn:
    """A session that waits for its next latent frame. made: what becomes of it."""

    def __init__(self, session: str, inputs: list[Message], playing: bool) -> None:
        self.session, self.inputs, self.playing = session, inputs, playing
        self.made: asyncio.Future[Made] = asyncio.get_running_loop().create_future()

    def finish(self, result: Made | Exception) -> None:
        if self.made.done():  # the session has ended
            return
        if isinstance(result, Exception):
            self.made.set_exception(result)
        else:
            self.made.set_result(result)


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
