#!/usr/bin/env bash
# Trains a causal generator like the released `shapes-64-causal`, from the weights of `shapes-64`: about two hours on a
# CPU core. Each training resumes, so the script can be interrupted and restarted.
set -euo pipefail
cd "$(dirname "$0")/.."
out=checkpoints/shapes-64-causal
tokenizer=runs/weights/shapes-64-streaming # of runs/shapes_64_tokenizer.py

# Block-causal attention, long clips in which captions switch, arrow keys.
phenaki train generator --recipe causal_shapes_64 --tokenizer $tokenizer --init-from shapes-64 --out $out/base \
    optimizer.ema_decay=0.99 run.steps=1000
# Guidance goes into the weights, and sampling needs one branch instead of two.
phenaki train generator --recipe causal_shapes_64 --tokenizer $tokenizer --init-from $out/base/model \
    --out $out/distilled loss.distilled_guidance=1.5 loss.text_drop=0 optimizer.warmup_steps=10 optimizer.ema_decay=0.97 \
    optimizer.cooldown_fraction=0.8 \
    data.seed=2 sampling.guidance.scale=1 sampling.decoding.steps=4 run.steps=150
# So few steps change too little: half as much again.
python runs/add_difference.py $out/distilled/model $out/distilled/model $out/base/model 0.5 $out/sum
python runs/release.py $out/sum src/phenaki/zoo/shapes-64-causal
phenaki evaluate shapes-64-causal --out src/phenaki/zoo/shapes-64-causal/metrics.json
