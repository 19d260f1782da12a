"""Clips are encoded once, before the first step, and never again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.training import lasting, stop_after, weights
from phenaki.core.errors import PhenakiError
from phenaki.data.config import SourceConfig
from phenaki.data.opening import open_source
from phenaki.data.sources import StreamConfig
from phenaki.media.convert import to_float
from phenaki.media.reader import read_clip
from phenaki.media.view import ClipView
from phenaki.tokenizers import CViViT
from phenaki.training import id_cache
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.id_cache import IdCacheConfig, cache_ids
from phenaki.training.recipes import masked_debug


def recipe_of(clips: Path, folder: Path, steps: int = 2, **cache: int) -> GeneratorRecipe:
    recipe = masked_debug()
    recipe = replace(recipe, data=replace(recipe.data, sources=(SourceConfig(str(clips)),)))
    return lasting(replace(recipe, cache=IdCacheConfig(str(folder), **cache)), steps, previews=False)


def test_the_ids_are_the_tokenizers(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    recipe = recipe_of(clips, tmp_path / "ids")
    data = cache_ids(recipe.data, recipe.cache, tokenizer, recordings=False)
    source = open_source(data.sources[0], data, captions=True)
    items = dict(
        (item.metadata["source"], source.sample(item, data.view(5, data.sources[0]), np.random.default_rng(0)))
        for item, _ in source.items(StreamConfig(epochs=1), {})
    )
    assert len(items) == 7
    view = ClipView(5, tokenizer.config.fps, (32, 32), random=False)
    for name, tokens in items.items():
        frames = read_clip((clips / name).read_bytes(), ".mp4", view, np.random.default_rng(0))
        with torch.no_grad():
            ids = tokenizer.encode(to_float(torch.from_numpy(frames)[None]))[0]
        assert np.array_equal(tokens.ids, ids) and tokens.caption.startswith(f"texture {name[0]}")


def test_after_the_first_step_no_clip_is_encoded_and_a_resumed_run_is_the_same(
    tokenizer: CViViT, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_generator(recipe_of(clips, tmp_path / "ids"), tmp_path / "uninterrupted", tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(CViViT, "encode", None)
        patch.setattr(id_cache, "tokenize_on", None)  # all is there
        with monkeypatch.context() as stopping:
            stop_after(stopping, 0)
            train_generator(recipe_of(clips, tmp_path / "ids"), tmp_path / "resumed", tokenizer)
        train_generator(recipe_of(clips, tmp_path / "ids"), tmp_path / "resumed", tokenizer)
    expected, resumed = weights(tmp_path / "uninterrupted"), weights(tmp_path / "resumed")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())
    other = CViViT(tokenizer.config)
    train_generator(recipe_of(clips, tmp_path / "ids", 1), tmp_path / "other", other)  # whose ids lie beside them
    assert len(list((tmp_path / "ids").iterdir())) == 2


def test_each_process_writes_its_units(
    tokenizer: CViViT, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(clips, tmp_path / "ids")
    monkeypatch.setattr(id_cache.time, "sleep", lambda seconds: (_ for _ in ()).throw(TimeoutError))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TimeoutError):  # it waits for the other
        cache_ids(recipe.data, recipe.cache, tokenizer, recordings=False)
    monkeypatch.setenv("RANK", "0")
    data = cache_ids(recipe.data, recipe.cache, tokenizer, recordings=False)
    source = open_source(data.sources[0], data, captions=True)
    names = [item.metadata["source"] for item, _ in source.items(StreamConfig(epochs=1), {})]
    assert sorted(names) == [f"{number}.mp4" for number in range(7)]


def test_what_cannot_be_encoded_once_is_a_sentence(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    recipe = recipe_of(clips, tmp_path / "ids")
    with pytest.raises(PhenakiError, match="cache.folder is for clips, which a tokenizer encodes: name it"):
        train_generator(recipe, tmp_path / "run")
    with pytest.raises(PhenakiError, match="data.flip mirrors .*: set cache.passes above 1"):
        train_generator(replace(recipe, data=replace(recipe.data, flip=True)), tmp_path / "run", tokenizer)
    endless = replace(recipe, data=replace(recipe.data, sources=(SourceConfig("shapes"),)))
    with pytest.raises(PhenakiError, match="'shapes' is endless: set how many of its clips are encoded"):
        train_generator(endless, tmp_path / "run", tokenizer)
    data = cache_ids(endless.data, replace(recipe.cache, samples=5), tokenizer, recordings=True)
    assert len(list(open_source(data.sources[0], data, captions=True).items(StreamConfig(epochs=1), {}))) == 5
