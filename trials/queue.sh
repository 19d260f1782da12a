#!/bin/bash
# Runs the trials one after another; those that are done are passed over, one that was killed goes on.
# Give it the id of a trial that is running to wait for it first.
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH=src
while [ -n "$1" ] && kill -0 "$1" 2>/dev/null; do sleep 2; done
run() { "${PYTHON:-python}" trials/trial.py "$1" "$2" >> "checkpoints/trials/$1.log" 2>&1; }
mkdir -p checkpoints/trials
run base '{}'
run stem '{"kind": "stem"}'
# how many bits: by size of the code, by number of ids
run stem_24bit '{"kind": "stem", "levels": [8, 8, 8, 8, 8, 8, 8, 8]}'
run stem_2x4x8 '{"kind": "stem", "patch": [2, 4, 8]}'
run stem_64k '{"kind": "stem", "levels": [8, 8, 8, 5, 5, 5]}'
run stem_p1 '{"kind": "stem", "patch": [1, 8, 8], "frames": 9}'
run stem_36bit '{"kind": "stem", "levels": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]}'
# losses
run stem_l1_gradient '{"kind": "stem", "l2": 0, "l1": 1, "gradient": 0.5}'
run stem_l1_spectral '{"kind": "stem", "l2": 0, "l1": 1, "spectral": 0.1}'
# networks
run stem_96x72 '{"kind": "stem", "size": "96x72"}'
run conv3d '{"kind": "conv3d", "widths": [48, 96, 192], "conv_blocks": [1, 1, 3]}'
run base_72x54 '{"size": "72x54", "patch": [2, 6, 6]}'
run stem_fine '{"kind": "stem", "fine": 16}'
run stem_192 '{"kind": "stem", "width": 192}'
run stem_l1 '{"kind": "stem", "l2": 0, "l1": 1}'
run stem_adversarial '{"kind": "stem", "l2": 0, "l1": 1, "adversarial": 0.01}'
