"""The pictures of examples/crafter: `python docs/pictures/crafter.py FOLDER`, the folder of examples/crafter/run.sh."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from phenaki import Phenaki
from phenaki.media.convert import to_float, to_uint8
from phenaki.media.montage import contact_sheet, upscale
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView

SIZE, FPS = (56, 72), 8
OUT, PICTURES = Path(sys.argv[1]), Path(__file__).parent


def read(split: str, number: int, frames: int) -> tuple[np.ndarray, list[dict[str, str]]]:
    """The middle of a recording, and its captions: [{"start": seconds, "text": ...}, ...]."""
    video = OUT / f"clips/{split}/clip_{number:04d}.mp4"
    view = ClipView(frames, FPS, SIZE, random=False)
    clip = read_clip(video.read_bytes(), ".mp4", view, np.random.default_rng(0))
    return clip, json.loads(video.with_suffix(".captions.json").read_text())


def save(name: str, picture: np.ndarray) -> None:
    Image.fromarray(picture).quantize(128).save(PICTURES / f"{name}.png", optimize=True)


# recordings: a frame per second, eight seconds from the middle, under the caption of the first
clips, labels = [], []
for number in (5, 34, 36):
    clip, captions = read("train", number, 57)
    begin = (120 - 57) / 2 / FPS
    labels.append([caption["text"] for caption in captions if caption["start"] <= begin][-1])
    clips.append(upscale(clip[::8], 2))
save("crafter_data", contact_sheet(clips, labels=labels))

# other worlds, and below each what the tokenizer makes of it
model = Phenaki.from_pretrained(OUT / "generator/model")
rows = []
for number in (0, 4, 7):
    clip, _ = read("new_starts", number, 17)
    decoded = to_uint8(model.tokenizer.decode(model.tokenizer.encode(to_float(clip))))[0]
    rows += [upscale(clip[::3], 2), upscale(decoded[::3], 2)]
save("crafter_reconstruction", contact_sheet(rows))

# from one start, each key held for a second, every other frame
clip, captions = read("new_starts", 5, 120)
start, caption = clip[52:61], [caption["text"] for caption in captions if caption["start"] <= 60 / FPS][-1]
keys, played = model.generator.config.actions.names, []
for key in keys:
    world = model.play(caption, start=start, seed=0)
    world.press(key)
    played.append(np.concatenate([start[-1:], *(world.step() for _ in range(FPS // 2))]))
save("crafter_keys", contact_sheet([upscale(each[::2], 2) for each in played], labels=keys))
