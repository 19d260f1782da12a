"""The scripted player: explores, wanders, looks around, steps along walls, and shoots at what it faces."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import chain

import numpy as np

from phenaki.worlds.doom.captions import MONSTERS
from phenaki.worlds.doom.engine import Observation

_CELL = 96.0  # map units: resolution of the explorer's memory of where it has been
_NEAR, _BLOCKED = 120.0, 56.0  # map units
_STUCK = 28  # frames
_PLAIN = 3  # frames
_PLAIN_DEVIATION = 7.0  # of 255


def shows_plain_wall(frame: np.ndarray) -> bool:
    """Whether the view, uint8 (H, W, 3), is of one colour above the weapon: such frames teach a model nothing."""
    view = frame[: 2 * len(frame) // 3]
    return float(view.reshape(-1, 3).std(axis=0).mean()) < _PLAIN_DEVIATION


class Player:
    """Behaviours of random length follow one another. What it does depends on `rng` and the observations alone."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.observation: Observation | None = None
        self._visits: dict[tuple[int, int], int] = defaultdict(int)
        self._behavior = self._behave()
        self._trigger = 0
        self._close = 0
        self._plain = 0
        self._trail: deque[tuple[float, float]] = deque(maxlen=_STUCK)

    def act(self, observation: Observation) -> frozenset[str]:
        """The buttons held for the frame after `observation`."""
        self.observation = observation
        x, y = observation.pose[:2]
        self._visits[self._cell(x, y)] += 1
        self._close = self._close + 1 if observation.distances.max() < _NEAR else 0
        self._plain = self._plain + 1 if shows_plain_wall(observation.frame) else 0
        self._trail.append((x, y))
        if self._plain >= _PLAIN:
            self._plain = 0
            self._behavior = chain(self._turn_away(), self._behave())
        elif len(self._trail) == _STUCK and np.ptp(self._trail, axis=0).max() < 24:
            self._trail.clear()
            self._behavior = chain(self._break_free(), self._behave())
        pressed = set(next(self._behavior))
        if self._trigger == 0:
            aimed = any(seen.name in MONSTERS and abs(seen.column) < 0.15 for seen in observation.objects)
            if self.rng.random() < (0.35 if aimed else 0.015):
                self._trigger = int(self.rng.integers(2, 10))
        if self._trigger:
            self._trigger -= 1
            pressed.add("shoot")
        return frozenset(pressed)

    def _behave(self) -> Iterator[set[str]]:
        behaviors = (self._explore, self._wander, self._turn_and_back, self._step_along)
        while True:
            yield from behaviors[self.rng.choice(4, p=(0.42, 0.23, 0.13, 0.22))]()

    def _explore(self) -> Iterator[set[str]]:
        """Walk to free and rarely visited cells; try to open what blocks the way, or turn."""
        last_door = -20
        for frame in range(int(self.rng.integers(30, 120))):
            ahead = float(self.observation.distances[6:10].min())
            if ahead < _BLOCKED + 20 and frame - last_door > 20 and self.rng.random() < 0.6:
                last_door = frame
                for _ in range(2):
                    yield {"use", "forward"}
                for _ in range(int(self.rng.integers(6, 12))):  # doors open slowly
                    yield set()
                continue
            if ahead < _NEAR:
                yield from self._turn_away()
                continue
            yield {"forward"} | self._steer()

    def _steer(self) -> set[str]:
        """The turn towards the best of the directions in view, if it is not ahead."""
        x, y, _, angle = self.observation.pose[:4]
        scores = []
        for offset, distance in zip(np.linspace(40, -40, 16), self.observation.distances, strict=True):
            reach, heading = min(float(distance) * 0.8, 400.0), math.radians(angle + offset)
            visits = self._visits[self._cell(x + reach * math.cos(heading), y + reach * math.sin(heading))]
            scores.append(reach - 25 * min(visits, 12) - 1.5 * abs(offset))
        best = int(np.argmax(scores))
        if best in range(5, 11) or self.rng.random() < 0.3:
            return set()
        return {"turn_left"} if best < 8 else {"turn_right"}

    def _turn_away(self) -> Iterator[set[str]]:
        """Turn to the side with more room until the way ahead is free."""
        left, right = self.observation.distances[:8].mean(), self.observation.distances[8:].mean()
        side = "turn_left" if left + self.rng.normal(0, 30) > right else "turn_right"
        for _ in range(int(self.rng.integers(2, 5))):
            yield {side} | ({"forward"} if self.rng.random() < 0.3 else set())
        for _ in range(12):
            if self.observation.distances[6:10].min() > 1.5 * _NEAR:
                return
            yield {side}

    def _wander(self) -> Iterator[set[str]]:
        """Three pairs of opposite buttons, independently, each held for a random time."""
        pairs = (
            ("forward", "backward", 0.4, 0.2),
            ("strafe_left", "strafe_right", 0.2, 0.2),
            ("turn_left", "turn_right", 0.2, 0.2),
        )
        held = [(frozenset(), 0)] * len(pairs)
        for _ in range(int(self.rng.integers(20, 70))):
            if self._close > 8:
                yield from self._turn_away()
                return
            for index, (first, second, p_first, p_second) in enumerate(pairs):
                buttons, left = held[index]
                if left == 0:
                    choice = self.rng.choice(3, p=(p_first, p_second, 1 - p_first - p_second))
                    buttons = frozenset(({first}, {second}, set())[choice])
                    left = int(self.rng.integers(2, 5 if index == 2 else 14))
                held[index] = (buttons, left - 1)
            yield set().union(*(buttons for buttons, _ in held))
            if self.rng.random() < 0.08:
                yield {"use"}

    def _turn_and_back(self) -> Iterator[set[str]]:
        """Stand and turn, and often back by the same angle."""
        for _ in range(int(self.rng.integers(1, 3))):
            sides = ["turn_left", "turn_right"]
            self.rng.shuffle(sides)
            count, pause = int(self.rng.choice((3, 6, 6, 6, 12))), int(self.rng.integers(0, 5))
            yield from ({sides[0]} for _ in range(count))
            yield from (set() for _ in range(pause))
            if self.rng.random() < 0.7:
                yield from ({sides[1]} for _ in range(count))

    def _step_along(self) -> Iterator[set[str]]:
        """Strafe to one side and back, at times walking as well."""
        sides = ["strafe_left", "strafe_right"]
        self.rng.shuffle(sides)
        walk = [set(), {"forward"}, {"backward"}][self.rng.choice(3, p=(0.5, 0.15, 0.35))]
        for side in sides:
            for _ in range(int(self.rng.integers(4, 18))):
                if self._close > 10:
                    yield from self._turn_away()
                    return
                yield {side} | walk

    def _break_free(self) -> Iterator[set[str]]:
        """Out of a corner: back and aside, turn, and on."""
        side = "left" if self.rng.random() < 0.5 else "right"
        for _ in range(int(self.rng.integers(3, 8))):
            yield {"backward", f"strafe_{side}"}
        for _ in range(int(self.rng.integers(4, 13))):
            yield {f"turn_{side}"}
        for _ in range(int(self.rng.integers(6, 16))):
            yield {"forward"} | ({"use"} if self.rng.random() < 0.2 else set())

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return round(x / _CELL), round(y / _CELL)
