"""Play Atari games with random actions and write clips, each with a caption of what the player does.

    pip install ale-py
    python record.py clips --clips 60

writes clips/GAME_ACTION_NUMBER.mp4 and clips/captions.csv, which `phenaki data pack` finds by its name. Every run
writes the same clips. The games come with the package `ale-py`.
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
RUN_UP = (30, 110)  # range of frames in which the player first moves the opposite way, to have room for the move


class Move(NamedTuple):
    """A joystick direction, its opposite, and the caption of the move."""

    push: Action
    back: Action
    caption: str


class Game(NamedTuple):
    """pace: fraction of the frames in which the joystick is pushed. rows, columns: the part of the screen to record."""

    pace: float
    rows: slice
    columns: slice
    moves: tuple[Move, ...]


# games with large moving objects: small networks lose a ball or a paddle in their reconstructions
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
    """Plays one game over and over."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.game, self.rng, self.emulator = GAMES[name], rng, ALEInterface()
        self.emulator.setInt("random_seed", int(rng.integers(2**31)))
        self.emulator.setFloat("repeat_action_probability", 0.25)  # sticky actions: at times the last one is repeated
        self.emulator.loadROM(roms.get_rom_path(name))

    def clips(self, move: Move) -> Iterator[np.ndarray]:
        """Clips uint8 (T, H, W, 3) at FPS, each from a new game, of the player making this move without dying."""
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
        for _ in range(FPS):  # the game does not respond to the player yet
            self.emulator.act(Action.NOOP)

    def _frame(self, move: Move) -> np.ndarray:
        self.emulator.act(move.push if self.rng.random() < self.game.pace else Action.NOOP)
        return self.emulator.getScreenRGB()[self.game.rows, self.game.columns]


def record(folder: Path, clips: int) -> None:
    """Write `clips` clips of each move, and captions.csv, into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    for seed, (name, game) in enumerate(GAMES.items()):
        player = Player(name, np.random.default_rng(seed))
        for move in game.moves:
            for number, clip in zip(range(clips), player.clips(move), strict=False):
                file = f"{name}_{move.push.name.lower()}_{number:03d}.mp4"
                with open_writer(folder / file, FPS, clip.shape[1:3]) as writer:
                    writer.add(clip)
                captions.append((file, f"{name.replace('_', ' ')}: {move.caption}"))
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("file", "caption"), *captions])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="clips of each move")
    arguments = parser.parse_args()
    record(arguments.folder, arguments.clips)
