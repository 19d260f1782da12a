#!/usr/bin/env bash
# Trains a model like the released `shapes-64` from scratch: many hours on 2 CPU cores. (The first release was trained in
# stages: see its card.) Each command resumes, so the script can be interrupted and restarted.
set -euo pipefail
cd "$(dirname "$0")/.."

phenaki train tokenizer --recipe cvivit_shapes_64 --out checkpoints/shapes-64/tokenizer
phenaki train generator --recipe masked_shapes_64 --tokenizer checkpoints/shapes-64/tokenizer/tokenizer \
    --out checkpoints/shapes-64/generator
python runs/release.py checkpoints/shapes-64/generator/model src/phenaki/zoo/shapes-64
phenaki evaluate shapes-64 --out src/phenaki/zoo/shapes-64/metrics.json
