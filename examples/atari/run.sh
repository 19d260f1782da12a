#!/usr/bin/env bash
# From the emulator to text-to-video, with public commands only. Interrupted, the same command resumes.
#   examples/atari/run.sh [FOLDER]
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-out/atari}
mkdir -p "$OUT"
cd "$OUT"

# 64 pixels and 11 frames instead of the recipes' 32 and 5, so that boxers and their moves are visible
CLIPS="data.size=64 data.lengths=[1,11]"

[ -e clips/captions.csv ] || python "$HERE/record.py" clips

# the tokenizer's 8 frames per second, 64 pixels, complete recordings of 2 seconds; a tenth is held out
phenaki data pack clips shards --fps 8 --size 64 --validation 0.1
phenaki data inspect shards --out inspect

phenaki train tokenizer --recipe cvivit_debug --data shards --out tokenizer \
    tokenizer.image_size=[64,64] tokenizer.pixel_hidden=256 $CLIPS \
    loss.token_consistency=0.01 run.steps=2500 run.eval_every=500

# four passes: each recording from four random start times
phenaki data tokenize shards tokens --tokenizer tokenizer/tokenizer --passes 4
phenaki data tokenize shards tokens_validation --tokenizer tokenizer/tokenizer --split validation

phenaki train generator --recipe masked_debug --data tokens --tokenizer tokenizer/tokenizer --out generator \
    data.validation=tokens_validation generator.frames=11 $CLIPS \
    sampling.decoding.steps=12 sampling.decoding.temperature=0.7 run.steps=3000 run.eval_every=500

for PROMPT in "boxing: the white boxer moves up" "boxing: the white boxer moves to the right" \
    "battle zone: the tank turns to the left" "battle zone: the tank turns to the right"; do
    phenaki generate "$PROMPT" --model generator/model --samples 3 --upscale 2 --out "${PROMPT//[: ]/_}.gif"
done
