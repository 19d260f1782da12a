"""A worker of the server: players, by the names of their sessions, on one copy of the model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from typing import Any

import torch

from phenaki.core.errors import PhenakiWarning
from phenaki.pipeline import Phenaki
from phenaki.play.player import FirstSteps, Player
from phenaki.play.protocol import Start


class Worker:
    """Its methods may be called from several threads, those of one player from one at a time."""

    def __init__(self, model: Phenaki, threads: int) -> None:
        self.model, self.threads = model, threads
        self._players: dict[str, Player] = {}
        self._first_steps = FirstSteps()

    def call(self, session: str, method: str, *arguments: Any) -> Any:
        """Call a method of the session's player, which is made by its first call."""
        if session not in self._players:
            self._players[session] = Player(self.model, self.threads, self._first_steps)
        return getattr(self._players[session], method)(*arguments)

    def drop(self, session: str) -> None:
        self._players.pop(session, None)

    def measure(self, steps: int) -> float:
        """Seconds per frame of a world, after steps that also warm the model up."""
        player = Player(self.model, self.threads, self._first_steps)
        player.make([Start(type="start", prompt=next(iter(self.model.domain.prompts), "a"))])
        player.make([])
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            frames = len(player.make([]).clip)
            times.append((time.perf_counter() - began) / frames)
        return sorted(times)[len(times) // 2]


_worker: Worker | None = None  # of this process, if it is one of a pool


def start_process(model: Phenaki, threads: int) -> None:
    """What a process of a pool does first."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore", PhenakiWarning)  # what is said of a prompt goes to the client that wrote it
    torch.set_num_threads(threads)
    _worker = Worker(model, threads)


def in_process(method: str, *arguments: Any) -> Any:
    """Call a method of this process's worker."""
    return getattr(_worker, method)(*arguments)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
