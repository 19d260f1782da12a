#!/usr/bin/env bash
# The pictures of editing in README.md and docs/editing.md, made again with the model in the package.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

python - <<'PYTHON'
import numpy as np

from phenaki.worlds.shapes import ShapesWorld
from phenaki.media.writer import write_image, write_video

world = ShapesWorld(split="test", objects=1)
square, cross = world[15].video, world[23].video
write_video("square.webp", square, 8)
write_image("square.png", square[0])
write_image("low.png", cross[0])
write_image("high.png", cross[-1])
mask = np.zeros_like(square)
mask[:, 8:40, 8:56] = 255
write_image("mask.png", mask[0])
PYTHON

plain=(--upscale 1 --seed "${SEED:-0}")
phenaki generate "now it moves down" --image square.png "${plain[@]}" -o image.webp
phenaki extend square.webp "now it turns yellow" "now it moves down" "${plain[@]}" -o extend.webp
phenaki interpolate low.png high.png "a big red cross drifts up, in front of a gray background" "${plain[@]}" -o between.webp
phenaki inpaint square.webp "a large yellow star drifts right" --mask mask.png --blend "${plain[@]}" -o inpaint.webp
phenaki generate "a large green circle moves to the right, on a navy background" --size 96x64 "${plain[@]}" -o wide.webp

python - "$here" <<'PYTHON'
import sys
from pathlib import Path

from phenaki.media.montage import contact_sheet
from phenaki.media.reader import read_video
from phenaki.media.writer import write_image

here = Path(sys.argv[1])


def sheet(name: str, columns: int, **rows: str) -> None:
    clips = [read_video(file).frames for file in rows.values()]
    labels = [label.replace("_", " ") for label in rows]
    write_image(here / f"{name}.png", contact_sheet(clips, columns=columns, labels=labels))


sheet("edit_image", 11, given="square.png", made="image.webp")
sheet("edit_extend", 11, the_first_eleven_frames_were_given="extend.webp")
sheet("edit_interpolate", 11, the_first_and_the_last_frame_were_given="between.webp")
sheet("edit_inpaint", 11, given="square.webp", mask="mask.png", made="inpaint.webp")
sheet("edit_size", 6, size_96x64="wide.webp")
PYTHON
