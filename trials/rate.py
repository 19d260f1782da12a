"""How many bits 29 dB take on the test clips, if each patch is coded by itself: an estimate before any training.

    python trials/rate.py

Reverse water-filling over the principal components of patches, as one Gaussian and as eight classes of patches by
energy (3 bits more name the class). A network that sees the other patches needs less; how much less, the trials say.
The mean PSNR over clips is 1.4 dB above the PSNR of the mean error, hence 27.6.
"""
import json
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
TEST = json.loads((DATA / "test.json").read_text())
STARTS = TEST["near_walls"] + TEST["anywhere"]


def level(fractions, spectra, distortion):
    low, high = 1e-9, max(s[0] for s in spectra)
    for _ in range(60):
        middle = (low * high) ** 0.5
        if sum(f * np.minimum(s, middle).sum() for f, s in zip(fractions, spectra, strict=True)) < distortion:
            low = middle
        else:
            high = middle
    return middle


def bits(size, p, ph, pw, psnr=27.6):
    width, height = map(int, size.split("x"))
    video = np.load(DATA / f"unseen_{size}.npy", mmap_mode="r")
    x = np.concatenate([patches(video[start + 1 : start + 11].astype(np.float32) / 255, p, ph, pw) for start in STARTS])
    x -= x.mean(0)
    energy = np.square(x).sum(1)
    edges = np.quantile(energy, np.linspace(0, 1, 9))
    group = np.clip(np.searchsorted(edges, energy) - 1, 0, 7)
    distortion, ids = 10 ** (-psnr / 10) * x.shape[1], (height // ph) * (width // pw)
    found = []
    for groups in ([x], [x[group == k] for k in range(8)]):
        spectra = [np.linalg.eigvalsh(g.T @ g / len(g))[::-1].clip(1e-9) for g in groups]
        fractions = [len(g) / len(x) for g in groups]
        water = level(fractions, spectra, distortion)
        rate = sum(f * (0.5 * np.log2(s / water)).clip(0).sum() for f, s in zip(fractions, spectra, strict=True))
        found.append(rate + (3 if len(groups) > 1 else 0))
    print(f"{size} {p}x{ph}x{pw}: {ids} ids a latent frame; bits a patch {found[0]:.0f} and {found[1]:.0f}; "
          f"bits a second {min(found) * ids * 8.75 / p:.0f}")


def patches(clip, p, ph, pw):
    T, H, W, _ = clip.shape
    t, h, w = T // p, H // ph, W // pw
    x = clip[: t * p, : h * ph, : w * pw].reshape(t, p, h, ph, w, pw, 3)
    return x.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, p * ph * pw * 3)


for patch in (("64x48", 2, 8, 8), ("64x48", 1, 8, 8), ("64x48", 2, 4, 8), ("72x54", 2, 6, 6), ("96x72", 2, 8, 8)):
    bits(*patch)
