"""Play crafter, a 2D survival game, with a scripted player, and write what `phenaki` trains on.

    pip install crafter
    python record.py clips --train 80 --new-starts 10

Each split, `train` and `new_starts` (other worlds), is a data set of its own:

    dataset.json             names and kinds of the actions
    clip_0003.mp4            144 x 112: 9 x 7 cells of the world, one step of the game per frame
    clip_0003.actions.npy    uint8 (T, 5), columns ACTIONS; row i acts between frames i-1 and i, row 0 is zero
    clip_0003.captions.json  [{"start": seconds, "text": "grass, trees, a cow: the player walks left"}, ...]

The same command resumes after the last complete clip.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import crafter
import numpy as np
from crafter import constants

from phenaki.media.writer import encode_mp4

FPS, CELL, ROWS, COLUMNS = 8, 16, 7, 9  # CELL in pixels: twice what is trained on, as the encoder blurs the last pixel
FRAMES = 120  # then night falls, which the game draws as noise
ACTIONS = ("left", "right", "up", "down", "do")
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
NAMES = ["", *constants.materials, "player", "cow", "zombie", "skeleton", "arrow", "plant"]  # of the semantic view
GROUND = {"grass": "grass", "sand": "sand", "stone": "rock", "path": "a cave"}
THINGS = {"water": "water", "tree": "trees", "coal": "coal", "iron": "iron", "diamond": "a diamond", "lava": "lava"}
CREATURES = {"cow": "a cow", "zombie": "a zombie", "skeleton": "a skeleton"}
DOING = {"tree": "chops a tree", "cow": "hits a cow", "zombie": "fights a zombie", "water": "drinks"}


class Player:
    """Walks in one direction for a while, turns away from obstacles, now and then stands still or does something."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.direction, self.left = "down", 0  # steps left in this direction, or presses of `do`, or of nothing
        self.pressed = ""

    def act(self, around: dict[str, str]) -> str:
        """The key to press, "" for none. around: what lies in the four directions."""
        ahead = around[self.direction]
        blocked = ahead not in constants.walkable
        if self.left > 0 and not (self.pressed == self.direction and blocked):
            self.left -= 1
        elif self.pressed == self.direction and ahead in DOING and self.rng.random() < 0.5:
            self.pressed, self.left = "do", int(self.rng.integers(1, 5))
        elif self.rng.random() < 0.08:
            self.pressed, self.left = "", int(self.rng.integers(1, 6))
        elif blocked and ahead != "lava" and self.pressed != "do" and self.rng.random() < 0.2:
            self.pressed, self.left = self.direction, 0  # bumps into it
        else:
            self.direction = self.pressed = self._turn(around)
            self.left = int(self.rng.geometric(0.15))
        return self.pressed

    def _turn(self, around: dict[str, str]) -> str:
        free = [name for name, ahead in around.items() if ahead in constants.walkable and name != self.direction]
        aims = [name for name, ahead in around.items() if ahead in DOING and name != self.direction]
        if aims and (not free or self.rng.random() < 0.3):
            return str(self.rng.choice(aims))
        return str(self.rng.choice(free or [name for name, ahead in around.items() if ahead != "lava"]))


def play(seed: int) -> tuple[list[np.ndarray], np.ndarray, list[dict[str, object]]]:
    """Frames uint8 (112, 144, 3), actions uint8 (T, 5) and captions of an episode, which a death ends early."""
    env = crafter.Env(size=(COLUMNS * CELL, (ROWS + 2) * CELL), seed=seed)  # two rows are the inventory
    player = Player(np.random.default_rng(seed))
    env.reset()
    view, _, dead, info = env.step(0)
    frames, rows, scenes, doings = [view[: ROWS * CELL]], [[0] * len(ACTIONS)], [_scene(info)], ["stands still"]
    while len(frames) < FRAMES and not dead:
        around = _around(info)
        pressed = player.act(around)
        before = tuple(info["player_pos"])
        view, _, dead, info = env.step(ACTIONS.index(pressed) + 1 if pressed else 0)
        moved = tuple(info["player_pos"]) != before
        frames.append(view[: ROWS * CELL])
        rows.append([int(name == pressed) for name in ACTIONS])
        scenes.append(_scene(info))
        if pressed == "do":
            doings.append(DOING.get(around[player.direction], "stands still"))
        else:
            doings.append(f"walks {pressed}" if moved else f"looks {pressed}" if pressed else "stands still")
    return frames, np.array(rows, np.uint8), _captions(scenes, doings)


def _around(info: dict) -> dict[str, str]:
    """What lies in the four directions; "" beyond the edge of the world."""
    area = np.pad(info["semantic"], 1)
    x, y = info["player_pos"] + 1
    return {name: NAMES[area[x + dx, y + dy]] for name, (dx, dy) in STEPS.items()}


def _scene(info: dict) -> str:
    """What is seen: ground that fills a tenth of the view, and whatever else there is."""
    x, y = info["player_pos"]
    seen = info["semantic"][max(x - COLUMNS // 2, 0) : x + COLUMNS // 2 + 1, max(y - ROWS // 2, 0) : y + ROWS // 2 + 1]
    counts = Counter(NAMES[number] for number in seen.flat)
    texts = [text for name, text in GROUND.items() if counts[name] > 5]
    return ", ".join(texts + [text for name, text in (THINGS | CREATURES).items() if counts[name]])


def _captions(scenes: list[str], doings: list[str]) -> list[dict[str, object]]:
    """One per second: what is seen in its middle, and what the player mostly does."""
    captions: list[dict[str, object]] = []
    for start in range(0, len(scenes), FPS):
        doing = Counter(doings[start : start + FPS]).most_common(1)[0][0]
        text = f"{scenes[min(start + FPS // 2, len(scenes) - 1)]}: the player {doing}"
        if not captions or captions[-1]["text"] != text:
            captions.append({"start": start / FPS, "text": text})
    return captions


def record(folder: Path, episodes: int, seed: int) -> None:
    """Write episodes into `folder`, which is created; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"actions": {"names": ACTIONS, "kinds": ["button"] * len(ACTIONS)}, "fps": FPS, "seed": seed}
    (folder / "dataset.json").write_text(json.dumps(spec, indent=1))
    for number in range(episodes):
        clip = folder / f"clip_{number:04d}.mp4"
        if clip.exists():
            continue
        frames, actions, captions = play(seed + number)
        np.save(clip.with_suffix(".actions.npy"), actions)
        clip.with_suffix(".captions.json").write_text(json.dumps(captions, indent=1))
        clip.with_suffix(".part").write_bytes(encode_mp4(frames, Fraction(FPS), frames[0].shape[:2], crf=12, g=8))
        clip.with_suffix(".part").rename(clip)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=80, help="clips to train on")
    parser.add_argument("--new-starts", type=int, default=10, help="clips of other worlds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    record(arguments.folder / "train", arguments.train, arguments.seed)
    record(arguments.folder / "new_starts", arguments.new_starts, arguments.seed + 1_000_000)
