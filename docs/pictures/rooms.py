"""The pictures of `rooms-64`: `python docs/pictures/rooms.py [MODEL]` holds one key in each of six videos."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import phenaki
from phenaki.media.montage import contact_sheet, side_by_side, upscale
from phenaki.media.writer import write_image, write_video

PLAYED = (  # a prompt, and the key that is held after a second
    ("the acid hall, an open view: the player walks forward", "forward"),
    ("the round court, an open view: the player walks backward", "backward"),
    ("the maze, a wall in front: the player turns around", "turn_left"),
    ("the gallery, an open view: the player turns right", "turn_right"),
    ("the brick room, a wall in front: the player steps left", "strafe_left"),
    ("the corridor, a soldier: the player shoots", "shoot"),
)
BEFORE, HELD = 4, 12  # latent frames
SEED = 5

if __name__ == "__main__":
    model = phenaki.load(sys.argv[1] if len(sys.argv) > 1 else "rooms-64")
    clips, labels, folder = [], [], Path(__file__).parent
    for prompt, key in PLAYED:
        world = model.play(prompt, seed=SEED)
        frames = [world.step() for _ in range(BEFORE)]
        world.press(key)
        frames += [world.step() for _ in range(HELD)]
        clips.append(np.concatenate(frames))
        labels.append(f"{prompt.split(',')[0]}, holding {key}")
    write_video(folder / "rooms.gif", upscale(side_by_side(clips), 3), fps=model.fps)
    write_image(folder / "rooms.png", contact_sheet([clip[1::2] for clip in clips], columns=16, labels=labels))
