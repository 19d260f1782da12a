#!/usr/bin/env bash
# From the emulator to videos made of text, with public commands only. Stopped, the same command goes on where it was.
#   examples/atari/run.sh [FOLDER]
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-out/atari}
mkdir -p "$OUT"
cd "$OUT"

# what the recipes of 32 pixels and 5 frames need to show a paddle that moves
CLIPS="data.size=64 data.lengths=[1,11]"

[ -e clips/captions.csv ] || python "$HERE/record.py" clips

# 8 frames per second, as the tokenizer has it; 64 pixels; whole recordings of 2 seconds, a tenth never trained on
phenaki data pack clips shards --fps 8 --size 64 --validation 0.1
phenaki data inspect shards --out inspect

phenaki train tokenizer --recipe cvivit_debug --data shards --out tokenizer \
    tokenizer.image_size=[64,64] tokenizer.pixel_hidden=256 $CLIPS run.steps=2500 run.picture_every=500

# four passes: each recording from four random places in time
phenaki data tokenize shards tokens --tokenizer tokenizer/tokenizer --passes 4
phenaki data tokenize shards tokens_validation --tokenizer tokenizer/tokenizer --split validation

phenaki train generator --recipe masked_debug --data tokens --tokenizer tokenizer/tokenizer --out generator \
    data.validation=tokens_validation generator.frames=11 $CLIPS run.steps=3000 run.picture_every=500

for PROMPT in "breakout: the paddle moves to the left" "breakout: the paddle moves to the right" \
    "pong: the green paddle moves up" "seaquest: the submarine dives" "freeway: the chicken walks up"; do
    phenaki generate "$PROMPT" --model generator/model --num 4 --out "${PROMPT//[: ]/_}.gif"
done
