"""Copy a trained model into the package with half-precision weights: `python runs/release.py TRAINED RELEASED`."""

from __future__ import annotations

import sys

import torch

from phenaki import Phenaki

if __name__ == "__main__":
    trained, released = sys.argv[1:]
    Phenaki.from_pretrained(trained).save_pretrained(released, dtype=torch.float16)
