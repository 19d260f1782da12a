"""Add what a fine-tuning changed to the weights of another model of the same origin (task arithmetic, 2212.04089).

    python runs/add_difference.py MODEL TUNED ORIGIN SCALE OUT

writes MODEL + SCALE * (TUNED - ORIGIN), with the sampling settings of TUNED.
"""

from __future__ import annotations

import sys

import torch

from phenaki import Phenaki

if __name__ == "__main__":
    *folders, scale, out = sys.argv[1:]
    model, tuned, origin = map(Phenaki.from_pretrained, folders)
    for name in ("generator", "text_encoder"):
        state, plus, minus = (getattr(each.components, name).state_dict() for each in (model, tuned, origin))
        with torch.no_grad():
            for key, tensor in state.items():
                if tensor.is_floating_point():
                    tensor += float(scale) * (plus[key] - minus[key])
    model.sampling, model.domain = tuned.sampling, tuned.domain
    model.save_pretrained(out)
