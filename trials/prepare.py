"""Decode a recording once, at several sizes, into arrays that trials map into memory; and draw the fixed test clips.

    python trials/prepare.py recordings trials/data

The test clips, 11 frames each from levels that no training clip shows: 32 near a textured wall (the caption names a
wall, and the gradient energy is in the upper 60 % of all clips) and 32 from anywhere.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

SIZES = {"64x48": (64, 48), "72x54": (72, 54), "96x72": (96, 72)}
SPLITS = {"train_rooms": "rooms/train", "train_levels": "levels/train", "new_starts": "*/new_starts", "unseen": "levels/unseen_maps"}

recordings, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
for split, pattern in SPLITS.items():
    if (out / f"{split}.json").exists():
        continue
    files = sorted(file for folder in recordings.glob(pattern) for file in folder.glob("*.mp4"))
    frames, starts = {name: [] for name in SIZES}, [0]
    for file in files:
        with av.open(str(file)) as container:
            count = 0
            for picture in container.decode(video=0):
                for name, (width, height) in SIZES.items():
                    small = picture.reformat(width, height, format="rgb24", interpolation=Interpolation.AREA)
                    frames[name].append(small.to_ndarray())
                count += 1
        starts.append(starts[-1] + count)
    for name in SIZES:
        np.save(out / f"{split}_{name}.npy", np.stack(frames[name]))
    (out / f"{split}.json").write_text(json.dumps({"files": [str(f.relative_to(recordings)) for f in files], "starts": starts}))
    print(split, len(files), starts[-1], flush=True)

index = json.loads((out / "unseen.json").read_text())
video = np.load(out / "unseen_96x72.npy", mmap_mode="r")
rng = np.random.default_rng(0)
walls, others = [], []
for file, start, end in zip(index["files"], index["starts"][:-1], index["starts"][1:], strict=True):
    captions = json.loads((recordings / file).with_suffix(".captions.json").read_text())
    for offset in range(0, end - start - 11, 11):
        clip = video[start + offset : start + offset + 11].astype(np.float32) / 255
        energy = float(np.square(np.diff(clip, axis=1)).mean() + np.square(np.diff(clip, axis=2)).mean())
        at = [caption["text"] for caption in captions if caption["start"] <= (offset + 5) * 4 / 35][-1]
        others.append((start + offset, energy))
        if "wall" in at:
            walls.append((start + offset, energy))
threshold = np.quantile([energy for _, energy in others], 0.4)
textured = [start for start, energy in walls if energy > threshold]
near, taken = [], Counter()  # two of an episode at most, or a player who is stuck would fill the list
for start in rng.permutation(textured).tolist():
    episode = int(np.searchsorted(index["starts"], start, "right"))
    if taken[episode] < 2 and len(near) < 32:
        near.append(start)
        taken[episode] += 1
near.sort()
anywhere = sorted(rng.choice([start for start, _ in others if start not in near], 32, replace=False).tolist())
(out / "test.json").write_text(json.dumps({"near_walls": near, "anywhere": anywhere, "walls": len(walls), "all": len(others)}))
print(len(walls), len(textured), len(others), len(near))
