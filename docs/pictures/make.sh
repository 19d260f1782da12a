#!/usr/bin/env bash
# The pictures of the README, made again with the model in the package.
set -euo pipefail
cd "$(dirname "$0")"
phenaki generate "a large red circle moves to the right, on a navy background" "now it turns yellow" "now it moves up" \
    --seed 0 --upscale 3 -o story.gif
python - <<'PYTHON'
from phenaki import Phenaki
from phenaki.worlds.shapes import ShapesWorld
from phenaki.media.convert import to_float, to_uint8
from phenaki.media.montage import contact_sheet, side_by_side, upscale
from phenaki.media.writer import write_image, write_video

PROMPTS = (
    "a large blue star spins, on a black background",
    "a small green square grows, on a gray background",
    "a large white triangle moves down and to the left, on a brown background",
    "a small cyan circle moves up while a large orange square fades away, on a navy background",
)
model = Phenaki.from_pretrained("shapes-64")
clips = [model.generate(prompt, seed=seed).clips[0] for seed, prompt in enumerate(PROMPTS)]
write_video("clips.gif", upscale(side_by_side(clips), 3), fps=model.fps)
write_image("clips.png", contact_sheet(clips, columns=11, labels=PROMPTS))

world = ShapesWorld(split="test")
rows = []
for i in range(3):
    original = world[i].video
    given_back = to_uint8(model.tokenizer.decode(model.tokenizer.encode(to_float(original))))[0]
    rows += [original, given_back]
write_image("reconstruction.png", contact_sheet(rows, columns=11))
PYTHON
