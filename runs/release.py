"""Copy a trained model into the package with half-precision weights: `python runs/release.py TRAINED RELEASED`.

`--tokenizer FOLDER`: another decoder for the same ids. `--subject`, `--license`, `--prompt` (repeated): what the model
says of itself.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from phenaki import Phenaki
from phenaki.tokenizers import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained")
    parser.add_argument("released")
    parser.add_argument("--tokenizer")
    parser.add_argument("--subject")
    parser.add_argument("--license")
    parser.add_argument("--prompt", action="append")
    args = parser.parse_args()
    model = Phenaki.from_pretrained(args.trained)
    if args.tokenizer:
        model.components = replace(model.components, tokenizer=Tokenizer.from_pretrained(args.tokenizer))
    says = {"subject": args.subject, "license": args.license, "prompts": args.prompt and tuple(args.prompt)}
    model.domain = replace(model.domain, **{name: value for name, value in says.items() if value})
    model.save_pretrained(args.released, dtype=torch.float16)


if __name__ == "__main__":
    main()
