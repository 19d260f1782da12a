"""The scripts in examples/extend/ each add a component: it registers, trains with a debug recipe, loads and samples."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import phenaki
from helpers.training import lasting
from phenaki.core.registry import REGISTRIES
from phenaki.tokenizers import CViViT
from phenaki.training.generator import train_generator
from phenaki.training.tokenizer import train_tokenizer

FOLDER = Path(__file__).parents[1] / "examples" / "extend"
MAX_LINES = 40  # of code, without imports, docstrings and blank lines


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "types", dict(registry.types))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"extend_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_fits_a_screen(file: Path) -> None:
    code = [
        line for line in file.read_text(encoding="utf-8").partition('"""\n\nimport')[2].splitlines() if line.strip()
    ]
    assert len([line for line in code if not line.startswith(("import", "from"))]) <= MAX_LINES


def test_a_tokenizer(tmp_path: Path) -> None:
    recipe = lasting(example("tokenizer").patch_debug(), 2)
    train_tokenizer(recipe, tmp_path)
    tokenizer = phenaki.load(tmp_path / "tokenizer")
    video = torch.rand(2, 3, 5, 32, 32)
    ids = tokenizer.encode(video)
    assert ids.shape == (2, 3, 4, 4) and tokenizer.decode(ids).shape == video.shape
    pieces = torch.cat(list(tokenizer.encode_stream(video.split((3, 2), dim=2))), dim=1)
    assert torch.equal(pieces, ids)


def test_a_text_encoder(tmp_path: Path, tokenizer: CViViT) -> None:
    module = example("text_encoder")
    train_generator(lasting(module.characters_debug(), 2), tmp_path, tokenizer)
    model = phenaki.load(tmp_path / "model")
    assert isinstance(model.text_encoder, module.CharacterEncoder)
    assert model.generate("a circle", seed=1).video.shape == (1, 3, 5, 32, 32)
    short, long = model.text_encoder.encode(["a circle"]), model.text_encoder.encode(["a circle", "a large square"])
    assert torch.equal(long.embeddings[0, :8], short.embeddings[0]) and long.mask.sum(1).tolist() == [8, 14]
    with pytest.raises(phenaki.PhenakiError, match="ASCII"):
        model.generate("ein roter Würfel")
