"""Several sizes of frames in one training of either stage: both learned, exactly as far after a stop, and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.training import lasting, stop_after, weights
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError
from phenaki.data.config import SourceConfig
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.data.tokens import TOKENS
from phenaki.generators import MaskedTransformer
from phenaki.pipeline import Phenaki
from phenaki.pipeline.domain import Domain
from phenaki.tokenizers import CViViT
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.recipes import conv3d_debug, cvivit_debug, masked_debug
from phenaki.training.tokenizer import TokenizerRecipe, TokenizerTrainer, train_tokenizer

WIDE = (16, 48)


def on_two_sizes(recipe: Any, first: str = "shapes", second: str = "shapes", steps: int = 6) -> Any:
    """The recipe for a few steps on clips of 3 frames, or 5 of a generator, of 32x32 and WIDE in equal parts."""
    length = recipe.generator.frames if isinstance(recipe, GeneratorRecipe) else 3
    sources = (SourceConfig(first), SourceConfig(second, size=WIDE))
    data = replace(recipe.data, sources=sources, batch=3, lengths=(length,), length_weights=(1.0,))
    return lasting(replace(recipe, data=data), steps)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """The shapes of all batches of which something is learned: (B, 3, T, H, W) of clips, (B, t, h, w) of ids."""
    shapes: set[tuple[int, ...]] = set()

    def record(network: type, method: str) -> None:
        plain = getattr(network, method)

        def wrapper(self: Any, batch: Tensor, *more: Any) -> Any:
            if torch.is_grad_enabled():
                shapes.add(tuple(batch.shape))
            return plain(self, batch, *more)

        monkeypatch.setattr(network, method, wrapper)

    record(TokenizerTrainer, "update")
    record(MaskedTransformer, "features")
    return shapes


def check_goes_on(train: Callable[[Path], Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That a run which was stopped ends as one that was not. Returns what was trained."""
    model = train(folder / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(folder / "parts")
    train(folder / "parts")
    uninterrupted, parts = weights(folder / "whole"), weights(folder / "parts")
    assert uninterrupted.keys() == parts.keys()
    assert all(torch.equal(uninterrupted[name], parts[name]) for name in uninterrupted)
    return model


@pytest.mark.parametrize("debug", [cvivit_debug, conv3d_debug])
def test_a_tokenizer_learns_two_sizes_and_goes_on_exactly(
    debug: Callable[[], TokenizerRecipe],
    trained: set[tuple[int, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = on_two_sizes(debug())
    check_goes_on(lambda folder: train_tokenizer(recipe, folder), tmp_path, monkeypatch)
    assert trained == {(3, 3, 3, 32, 32), (4, 3, 3, *WIDE)}


def test_a_generator_learns_two_sizes_goes_on_exactly_and_draws_both(
    tokenizer: CViViT, trained: set[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = on_two_sizes(masked_debug())
    folder = check_goes_on(lambda folder: train_generator(recipe, folder, tokenizer), tmp_path, monkeypatch)
    assert trained == {(3, 3, 4, 4), (4, 3, 2, 6)}
    model = Phenaki.from_pretrained(folder)
    model.domain = Domain()  # it may not have read these words
    for size in ((32, 32), WIDE):
        assert model.generate("a red circle moves to the right", size=size).video.shape == (1, 3, 5, *size)


def test_token_shards_of_two_sizes_in_one_training(
    tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, trained: set[tuple[int, ...]], tmp_path: Path
) -> None:
    square, wide = str(tmp_path / "square"), str(tmp_path / "wide")
    for place, size in ((square, 0), (wide, WIDE)):
        tokenize(TokenizeConfig(SourceConfig(str(clips), size=size), frames=5), place, tokenizer, text_encoder)
    train_generator(on_two_sizes(masked_debug(), square, wide), tmp_path / "run")
    assert trained == {(3, 3, 4, 4), (4, 3, 2, 6)}
    recipe = on_two_sizes(masked_debug(), wide, wide)
    with pytest.raises(PhenakiError, match=r"'.*wide' are of clips of 16x48 pixels, not 32x32: .* size: \[16, 48\]"):
        train_generator(recipe, tmp_path / "other")


def test_token_shards_of_a_size_that_does_not_fit_are_not_begun(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    said = "frames of height 16 and width 20 do not fit this tokenizer, whose patches are 8x8: .* are 16 and 16"
    with pytest.raises(PhenakiError, match=said):
        tokenize(TokenizeConfig(SourceConfig(str(clips), size=(16, 20)), frames=5), str(tmp_path / "out"), tokenizer)
    assert not (tmp_path / "out").exists()


def test_runs_and_token_shards_from_before_sources_had_sizes_go_on(
    tokenizer: CViViT, clips: Path, tmp_path: Path
) -> None:
    asked = TokenizeConfig(SourceConfig(str(clips)), frames=5)
    tokens, run = tmp_path / "tokens", tmp_path / "run"
    done = tokenize(asked, str(tokens), tokenizer)
    made_by = json.loads((tokens / TOKENS).read_text())
    del made_by["size"], made_by["config"]["source"]["size"]
    (tokens / TOKENS).write_text(json.dumps(made_by))
    assert tokenize(asked, str(tokens), tokenizer) == done

    recipe = lasting(cvivit_debug(), 1)
    train_tokenizer(recipe, run)
    before = json.loads((run / "recipe.json").read_text())
    del before["data"]["sources"][0]["size"]
    (run / "recipe.json").write_text(json.dumps(before))
    train_tokenizer(recipe, run)
