"""The scripts in examples/extend/ each add a component: it registers, trains with a debug recipe, loads and samples."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import phenaki
from helpers.training import lasting
from phenaki.conditioning import WordEncoder
from phenaki.core.config import override
from phenaki.core.registry import REGISTRIES
from phenaki.generators import Components, MaskedTransformer
from phenaki.pipeline.domain import Domain
from phenaki.sampling import DecodingConfig
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
    model.domain = Domain()  # it may not have read the words of these prompts
    assert isinstance(model.text_encoder, module.CharacterEncoder)
    assert model.generate("a circle", seed=1).video.shape == (1, 3, 5, 32, 32)
    short, long = model.text_encoder.encode(["a circle"]), model.text_encoder.encode(["a circle", "a large square"])
    assert torch.equal(long.embeddings[0, :8], short.embeddings[0]) and long.mask.sum(1).tolist() == [8, 14]
    with pytest.raises(phenaki.PhenakiError, match="ASCII"):
        model.generate("ein roter Würfel")


@pytest.mark.parametrize("name", ["tokenizer", "text_encoder", "generator"])
def test_the_command_line_can_change_its_recipe(name: str) -> None:
    recipes = {"tokenizer": "patch_debug", "text_encoder": "characters_debug", "generator": "nearby_debug"}
    recipe = getattr(example(name), recipes[name])()
    assert override(recipe, ["run.steps=2"]) == replace(recipe, run=replace(recipe.run, steps=2))


@pytest.mark.parametrize("critic", ["none", "self", "token"])
def test_a_generator(critic: str, tmp_path: Path, tokenizer: CViViT) -> None:
    module = example("generator")
    recipe = lasting(module.nearby_debug(), 2)
    train_generator(replace(recipe, critic=replace(recipe.critic, kind=critic, layers=1)), tmp_path, tokenizer)
    model = phenaki.load(tmp_path / "model")
    model.domain = Domain()  # it may not have read the words of these prompts
    assert isinstance(model.generator, module.Nearby)
    order = "confidence" if critic == "none" else "critic"
    options = {"seed": 1, "guidance_scale": 2.0, "order": order}
    videos = [model.generate(prompt, **options).video for prompt in ("a circle", "a square")]
    assert videos[0].shape == (1, 3, 5, 32, 32) and not torch.equal(*videos)


def test_a_sampler(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> None:
    module = example("sampler")
    model = phenaki.Phenaki(Components(generator, tokenizer, text_encoder))
    assert torch.equal(module.generate(model, "a circle"), module.generate(model, "a circle"))
    ids = torch.randint(tokenizer.vocab_size, (2, 3, 4, 4))
    known = torch.rand(ids.shape) < 0.5
    seen = []

    def logits_fn(partial: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        seen.append(partial.shape[1])
        assert (partial[:, :-1] != tokenizer.vocab_size).all()  # only the last latent frame is incomplete
        return torch.randn(len(where), tokenizer.vocab_size)

    rng = torch.Generator().manual_seed(0)
    sampled = module.decode_by_frame(logits_fn, ids, known, tokenizer.vocab_size, DecodingConfig(steps=2), rng)
    assert torch.equal(sampled[known], ids[known]) and (sampled < tokenizer.vocab_size).all()
    assert seen == [1, 1, 2, 2, 3, 3]
