"""A worker of the server: players, by the names of their sessions, on one copy of the model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.pipeline import Phenaki
from phenaki.play.player import FirstSteps, Made, Player, make_together
from phenaki.play.protocol import Message, Start

_TOGETHER = 4  # worlds of which the speed is measured


class Worker:
    """Its methods may be called from several threads, those of one player from one at a time."""

    def __init__(self, model: Phenaki, threads: int) -> None:
        self.model, self.threads = model, threads
        self._players: dict[str, Player] = {}
        self._first_steps = FirstSteps()

    def call(self, session: str, method: str, *arguments: Any) -> Any:
        """Call a method of the session's player, which is made by its first call."""
        return getattr(self._player(session), method)(*arguments)

    def make(self, turns: Sequence[tuple[str, list[Message], bool]]) -> list[Made | PhenakiError]:
        """`make_together` of the players of these sessions."""
        return make_together([(self._player(session), inputs, playing) for session, inputs, playing in turns])

    def drop(self, session: str) -> None:
        self._players.pop(session, None)

    def measure(self, steps: int) -> float:
        """Seconds per frame of several worlds in one batch, after steps that also warm the model up."""
        count = _TOGETHER if self.model.generator.has_cache else 1
        players = [Player(self.model, self.threads, self._first_steps) for _ in range(count)]
        start, times = Start(type="start", prompt=next(iter(self.model.domain.prompts), "a")), []
        for step in range(2 + steps):
            began = time.perf_counter()
            made = make_together([(player, [] if step else [start], True) for player in players])
            times.append((time.perf_counter() - began) / sum(len(each.clip) for each in made))
        return sorted(times[2:])[steps // 2]

    def _player(self, session: str) -> Player:
        if session not in self._players:
            self._players[session] = Player(self.model, self.threads, self._first_steps)
        return self._players[session]


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
