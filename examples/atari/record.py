"""Plays Atari games at random and writes clips of it, with a caption that says what the player does.

    pip install ale-py
    python record.py clips --clips 60

makes clips/GAME_ACTION_NUMBER.mp4, and clips/captions.csv, which `phenaki data pack` finds by its name. It
makes the same clips each time. The games are in the package `ale-py`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms

from phenaki.media.writer import open_writer

FPS = 60  # of the emulator
SECONDS = 2
RUN_UP = (30, 110)  # frames that the player first goes the other way, so as to have room


class Move(NamedTuple):
    """A direction of the joystick, the one that leads back, and what is then to be seen."""

    push: Action
    back: Action
    seen: str


class Game(NamedTuple):
    """pace: the share of frames in which the joystick is pushed; rows, columns: the square of the screen to record."""

    pace: float
    rows: slice
    columns: slice
    moves: tuple[Move, ...]


# games in which what moves is large: in a small network's reconstructions a ball or a paddle is lost
GAMES = {
    "boxing": Game(
        pace=0.4,
        rows=slice(37, 177),
        columns=slice(10, 150),
        moves=(
            Move(Action.LEFT, Action.RIGHT, "the white boxer moves to the left"),
            Move(Action.RIGHT, Action.LEFT, "the white boxer moves to the right"),
            Move(Action.UP, Action.DOWN, "the white boxer moves up"),
            Move(Action.DOWN, Action.UP, "the white boxer moves down"),
        ),
    ),
    "battle_zone": Game(
        pace=0.5,
        rows=slice(36, 132),
        columns=slice(32, 128),
        moves=(
            Move(Action.LEFT, Action.RIGHT, "the tank turns to the left"),
            Move(Action.RIGHT, Action.LEFT, "the tank turns to the right"),
        ),
    ),
}


class Player:
    """Plays one game, again and again."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.game, self.rng, self.emulator = GAMES[name], rng, ALEInterface()
        self.emulator.setInt("random_seed", int(rng.integers(2**31)))
        self.emulator.setFloat("repeat_action_probability", 0.25)  # sticky: the emulator at times misses a change
        self.emulator.loadROM(roms.get_rom_path(name))

    def clips(self, move: Move) -> Iterator[np.ndarray]:
        """Clips uint8 (T, H, W, 3) at FPS, each of a new game, in which the player makes this move and does not die."""
        while True:
            self._begin()
            for _ in range(self.rng.integers(*RUN_UP)):
                self.emulator.act(move.back)
            lives = self.emulator.lives()
            clip = np.stack([self._frame(move) for _ in range(SECONDS * FPS)])
            if self.emulator.lives() == lives:
                yield clip

    def _begin(self) -> None:
        self.emulator.reset_game()
        for _ in range(FPS):  # the first moments are not the player's yet
            self.emulator.act(Action.NOOP)

    def _frame(self, move: Move) -> np.ndarray:
        self.emulator.act(move.push if self.rng.random() < self.game.pace else Action.NOOP)
        return self.emulator.getScreenRGB()[self.game.rows, self.game.columns]


def record(folder: Path, clips: int) -> None:
    """Write so many clips of each move, and captions.csv, into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    for seed, (game, about) in enumerate(GAMES.items()):
        player = Player(game, np.random.default_rng(seed))
        for move in about.moves:
            for number, clip in zip(range(clips), player.clips(move), strict=False):
                name = f"{game}_{move.push.name.lower()}_{number:03d}.mp4"
                with open_writer(folder / name, FPS, clip.shape[1:3]) as writer:
                    writer.add(clip)
                captions.append((name, f"{game.replace('_', ' ')}: {move.seen}"))
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *captions])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="of each move")
    given = parser.parse_args()
    record(given.folder, given.clips)
