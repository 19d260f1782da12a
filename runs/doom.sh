#!/usr/bin/env bash
# Records play of a 3D game, and trains on it what `phenaki play` plays: a tokenizer, then a causal generator with text and
# actions, both of the recipes for recordings of one's own. Core-hours; docs/log.md has what minutes give. Each
# command resumes.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-runs/out/doom}
levels=(); for n in 01 02 03 04 06 07 08 10 11 12 14 15 16 17 18 19 20 22 24 26 27 28 29 30 31 32; do levels+=(--scenario "map$n"); done
unseen=(); for n in 05 09 13 21 23 25; do unseen+=(--unseen-scenario "map$n"); done
size=(tokenizer.image_size=[48,64] tokenizer.fps=8.75 data.size=[48,64] data.fps=8.75)

# The generator learns eight small scenarios; the tokenizer also sees 26 levels, and is measured on six others.
phenaki data record doom "$out/small" --train 90 --new-starts 6
phenaki data record doom "$out/levels" "${levels[@]}" --train 80 --new-starts 0 "${unseen[@]}" --unseen-maps 6

videos=(--data "$out/small/train" --data "$out/levels/train")
phenaki train tokenizer --recipe cvivit_laptop_64 "${videos[@]}" --out "$out/tokenizer" "${size[@]}"
# Its decoder alone learns texture, so that ids stay.
phenaki train tokenizer --recipe cvivit_laptop_64 "${videos[@]}" --out "$out/sharper" "${size[@]}" \
    --init-from "$out/tokenizer/tokenizer" freeze_encoder=true loss.texture=0.1 optimizer.lr=5e-4 \
    data.lengths=[1,17] data.length_weights=[0.1,0.9] run.steps=500
tokenizer=$out/sharper/tokenizer
phenaki evaluate "$tokenizer" --suite reconstruction --data "$out/levels/unseen_maps" --frames 17 --out "$out/tokenizer.json"

phenaki data tokenize "$out/small/train" "$out/tokens" --tokenizer "$tokenizer" --frames 0
phenaki data tokenize "$out/small/new_starts" "$out/tokens_new" --tokenizer "$tokenizer" --frames 0
generator=(--recipe causal_laptop_64 --data "$out/tokens" --tokenizer "$tokenizer"
    data.size=[48,64] data.fps=8.75 data.validation="$out/tokens_new" data.batch=8)
phenaki train generator "${generator[@]}" --out "$out/generator" optimizer.ema_decay=0.99 \
    optimizer.cooldown_fraction=0.4 run.steps=1150
phenaki train generator "${generator[@]}" --out "$out/further" --init-from "$out/generator/model" data.seed=7 \
    optimizer.warmup_steps=20 optimizer.ema_decay=0.99 optimizer.cooldown_fraction=0.5 run.steps=1100
# Guidance over actions, in the weights: at half the cost.
phenaki train generator "${generator[@]}" --out "$out/distilled" --init-from "$out/further/model" data.seed=8 \
    loss.distilled_guidance=2.5 loss.distilled_over=actions loss.text_drop=0 loss.action_drop=0 optimizer.lr=1e-3 \
    optimizer.warmup_steps=10 optimizer.ema_decay=0.97 optimizer.cooldown_fraction=0.8 \
    sampling.guidance.scale=1 sampling.decoding.steps=4 run.steps=220
python runs/add_difference.py "$out/further/model" "$out/distilled/model" "$out/further/model" 1.5 "$out/model"

phenaki train judge --recipe inverse_dynamics_64 --data "$out/small/train" --out "$out/judge" \
    data.size=[48,64] data.fps=8.75 data.validation="$out/small/new_starts"
phenaki evaluate "$out/model" --suite actions --judge "$out/judge/inverse_dynamics" \
    --data "$out/small/new_starts" --out "$out/actions.json"
