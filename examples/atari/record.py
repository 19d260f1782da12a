"""Plays Atari games at random and writes clips of it, with a caption that says what the player does.

    pip install ale-py
    python record.py clips --clips 40

makes clips/GAME_ACTION_NUMBER.mp4, and clips/captions.csv, which `phenaki data pack` finds by its name. Equal seeds
make equal clips. The games are in the package `ale-py`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms

from phenaki.video import open_writer

FPS = 60  # of the emulator
SECONDS = 2
FIELD = slice(35, 195)  # of the screen's 210 rows: these hold the playing fields, and with 160 columns are a square
RUN_UP = (30, 110)  # frames that the player first goes the other way, so as to have room


class Move(NamedTuple):
    """A direction of the joystick, the one that leads back, and what is then to be seen."""

    push: Action
    back: Action
    seen: str


class Game(NamedTuple):
    """pace: the share of frames in which the joystick is pushed; a paddle crosses the screen in half a second."""

    pace: float
    moves: tuple[Move, ...]


GAMES = {
    "breakout": Game(
        pace=0.25,
        moves=(
            Move(Action.LEFT, Action.RIGHT, "the paddle moves to the left"),
            Move(Action.RIGHT, Action.LEFT, "the paddle moves to the right"),
        ),
    ),
    "pong": Game(
        pace=0.25,
        moves=(
            Move(Action.RIGHT, Action.LEFT, "the green paddle moves up"),
            Move(Action.LEFT, Action.RIGHT, "the green paddle moves down"),
        ),
    ),
    "freeway": Game(
        pace=1.0,
        moves=(
            Move(Action.UP, Action.DOWN, "the chicken walks up"),
            Move(Action.DOWN, Action.UP, "the chicken walks down"),
        ),
    ),
    "seaquest": Game(
        pace=0.6,
        moves=(
            Move(Action.LEFT, Action.RIGHT, "the submarine moves to the left"),
            Move(Action.RIGHT, Action.LEFT, "the submarine moves to the right"),
            Move(Action.UP, Action.DOWN, "the submarine rises"),
            Move(Action.DOWN, Action.UP, "the submarine dives"),
        ),
    ),
}


class Player:
    """Plays one game, again and again, and looks at the screen."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.game, self.rng, self.emulator = GAMES[name], rng, ALEInterface()
        self.emulator.setInt("random_seed", int(rng.integers(2**31)))
        self.emulator.setFloat("repeat_action_probability", 0.25)  # sticky: the emulator at times misses a change
        self.emulator.loadROM(roms.get_rom_path(name))
        self._begin()

    def clips(self, move: Move) -> Iterator[np.ndarray]:
        """Clips (T, 160, 160, 3) uint8 at FPS in which the player makes this move; those where it dies are left out."""
        while True:
            if self.emulator.game_over():
                self._begin()
            for _ in range(self.rng.integers(*RUN_UP)):
                self.emulator.act(move.back)
            lives = self.emulator.lives()
            clip = np.stack([self._frame(move) for _ in range(SECONDS * FPS)])
            if self.emulator.lives() == lives and not self.emulator.game_over():
                yield clip

    def _begin(self) -> None:
        self.emulator.reset_game()
        for frame in range(FPS):  # a ball is served by the fire button, and some games take a moment
            self.emulator.act(Action.FIRE if frame % 2 else Action.NOOP)

    def _frame(self, move: Move) -> np.ndarray:
        self.emulator.act(move.push if self.rng.random() < self.game.pace else Action.NOOP)
        return self.emulator.getScreenRGB()[FIELD]


def record(folder: Path, games: list[str], clips: int, seed: int) -> None:
    """Write so many clips of each move, and captions.csv, into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    for game in games:
        player = Player(game, np.random.default_rng([seed, list(GAMES).index(game)]))
        for move in GAMES[game].moves:
            for number, clip in zip(range(clips), player.clips(move), strict=False):
                name = f"{game}_{move.push.name.lower()}_{number:03d}.mp4"
                with open_writer(folder / name, FPS, clip.shape[1:3]) as writer:
                    writer.add(clip)
                captions.append((name, f"{game}: {move.seen}"))
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *captions])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--clips", type=int, default=40, help="of each move")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    record(given.folder, given.games, given.clips, given.seed)
