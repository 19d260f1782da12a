#!/usr/bin/env bash
# From a game to a model of it that is played, with public commands only. Interrupted, the same command resumes.
#   examples/crafter/run.sh [FOLDER]
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-out/crafter}
mkdir -p "$OUT"
cd "$OUT"

# The networks of the recipes for 64 pixels, at other sizes and for fewer steps: 7 x 9 cells of 8 pixels, a step a frame.
SIZE="data.size=[56,72] data.fps=8"

python "$HERE/record.py" clips --train 80 --new-starts 10

phenaki train tokenizer --recipe cvivit_laptop_64 --data clips/train --out tokenizer \
    tokenizer.image_size=[56,72] tokenizer.fps=8 $SIZE run.steps=300
phenaki evaluate tokenizer/tokenizer --suite reconstruction --data clips/new_starts --frames 17 --out tokenizer.json

for SPLIT in train new_starts; do
    phenaki data tokenize "clips/$SPLIT" "ids/$SPLIT" --tokenizer tokenizer/tokenizer --frames 0
done
phenaki train generator --recipe causal_laptop_64 --data ids/train --tokenizer tokenizer/tokenizer --out generator \
    generator.frames=11 data.lengths=[1,11] data.batch=2 $SIZE data.validation=ids/new_starts \
    optimizer.warmup_steps=20 optimizer.cooldown_fraction=0.4 optimizer.ema_decay=0.98 run.steps=700

phenaki train judge --recipe inverse_dynamics_64 --data clips/train --out judge \
    $SIZE data.validation=clips/new_starts inverse_dynamics.reach=[0.15,0.15] optimizer.ema_decay=0.98 run.steps=300
phenaki evaluate generator/model --suite actions --judge judge/inverse_dynamics --data clips/new_starts --out actions.json
