"""Where trainings get their inputs: from token shards without the networks, from files of which some are broken."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.training import saved
from phenaki.conditioning import WordEncoder
from phenaki.core.config import override
from phenaki.core.errors import PhenakiError
from phenaki.data.config import DataConfig, SourceConfig
from phenaki.data.shards import ShardWriter
from phenaki.data.tokenizing import TokenizeConfig, tokenize
from phenaki.media.writer import write_video
from phenaki.pipeline import Phenaki
from phenaki.tokenizers import CViViT
from phenaki.training.bad_samples import FILE as BAD_SAMPLES
from phenaki.training.generator import GeneratorRecipe, train_generator
from phenaki.training.recipes import cvivit_debug, masked_debug
from phenaki.training.run import Run
from phenaki.training.tokenizer import train_tokenizer

Write = Callable[..., str]


def generator_recipe(*places: str | Path, steps: int = 3, **data: object) -> GeneratorRecipe:
    recipe = masked_debug()
    sources = tuple(SourceConfig(str(place)) for place in places)
    run = replace(recipe.run, steps=steps, log_every=1, eval_every=steps)
    return replace(recipe, data=replace(recipe.data, sources=sources, **data), run=run)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def tokens(clips: Path, tokenizer: CViViT, tmp_path: Path) -> Write:
    """Writes the tokens of the clips, with the embeddings of a text encoder if one is given."""

    def write(text_encoder: WordEncoder | None = None, name: str = "tokens", by: CViViT = tokenizer) -> str:
        tokenize(TokenizeConfig(SourceConfig(str(clips)), frames=5), str(tmp_path / name), by, text_encoder)
        return str(tmp_path / name)

    return write


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (CViViT, WordEncoder):
        monkeypatch.setattr(network, "__init__", lambda self, config: pytest.fail(f"{type(self)} was made"))


def other(network: torch.nn.Module) -> torch.nn.Module:
    """One of the same configuration with other weights."""
    torch.manual_seed(9)
    return type(network)(network.config).eval()


# ---- from token shards


def test_ids_and_embeddings_need_neither_network(
    tokens: Write, tokenizer: CViViT, text_encoder: WordEncoder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = tokens(text_encoder)
    request.getfixturevalue("no_networks")
    model = train_generator(generator_recipe(place), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 3
    assert sorted(entry.name for entry in model.iterdir()) == ["README.md", "generator", "model.json"]
    assert not list((tmp_path / "run").glob("*.png"))
    with pytest.raises(PhenakiError, match="holds no tokenizer/: a model trained from token shards"):
        Phenaki.from_pretrained(model)


def test_put_together_it_is_a_whole_model(
    tokens: Write, tokenizer: CViViT, text_encoder: WordEncoder, tmp_path: Path
) -> None:
    place = tokens(text_encoder)
    encoded = train_generator(generator_recipe(place), tmp_path / "whole", tokenizer, text_encoder)
    from_ids = train_generator(generator_recipe(place), tmp_path / "apart")
    assert losses(tmp_path / "whole") == losses(tmp_path / "apart")
    for room in ("tokenizer", "text"):
        shutil.copytree(encoded / room, from_ids / room)
    made = [
        Phenaki.from_pretrained(model).generate("texture", frames=3, steps=2).clips for model in (encoded, from_ids)
    ]
    assert np.array_equal(*made)
    assert list((tmp_path / "whole").glob("samples_*.png"))


def test_ids_alone_need_no_tokenizer_and_train_a_text_encoder(
    tokens: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tokens()
    monkeypatch.setattr(CViViT, "__init__", lambda self, config: pytest.fail("a tokenizer was made"))
    model = train_generator(generator_recipe(place), tmp_path / "run")
    assert sorted(entry.name for entry in model.iterdir()) == ["README.md", "generator", "model.json", "text"]


def test_training_from_tokens_is_training_on_the_clips(tokenizer: CViViT, clips: Path, tmp_path: Path) -> None:
    """Clips of just the frames and pixels that are wanted have one place to be cut from, so both see the same."""
    folder, shards = tmp_path / "exact", tmp_path / "shards"
    folder.mkdir()
    for number in range(7):
        noise = np.random.default_rng(number).integers(0, 256, (5, 32, 32, 3), np.uint8)
        write_video(folder / f"{number}.mp4", noise, 8)
        (folder / f"{number}.txt").write_text(f"noise {number}")
    with ShardWriter(str(shards)) as writer:
        for number in range(7):
            media, caption = folder / f"{number}.mp4", folder / f"{number}.txt"
            writer.write(str(number), {"mp4": media.read_bytes(), "txt": caption.read_bytes()})
    tokenize(TokenizeConfig(SourceConfig(str(folder)), frames=5), str(tmp_path / "tokens"), tokenizer)
    for place in ("shards", "tokens"):
        recipe = generator_recipe(tmp_path / place, steps=5, lengths=(5,), length_weights=(1.0,))
        train_generator(recipe, tmp_path / f"run_{place}", tokenizer)
    live, stored = (losses(tmp_path / f"run_{place}") for place in ("shards", "tokens"))
    assert live == stored and len(set(live)) == 5


def test_what_does_not_belong_together_is_refused(
    tokens: Write, tokenizer: CViViT, text_encoder: WordEncoder, clips: Path, tmp_path: Path
) -> None:
    plain, embedded = tokens(), tokens(text_encoder, "embedded")
    foreign = tokens(name="foreign", by=other(tokenizer))
    elsewhere = tokens(other(text_encoder), "elsewhere")
    for recipe, networks, said in (
        (generator_recipe(plain), (other(tokenizer),), "the ids in '.*tokens' were written by another tokenizer"),
        (generator_recipe(plain, foreign), (), "the ids in '.*foreign' were written by another tokenizer"),
        (generator_recipe(plain, validation=foreign), (), "the ids in '.*foreign' were written by another tokenizer"),
        (generator_recipe(embedded), (tokenizer, other(text_encoder)), "are of another text encoder than"),
        (generator_recipe(embedded, elsewhere), (), "the text embeddings in '.*elsewhere' and other data.sources"),
        (generator_recipe(embedded, plain), (), "the text embeddings in '.*tokens' and other data.sources differ"),
        (generator_recipe(embedded, clips), (tokenizer,), "holds text embeddings and '.*clips0' does not"),
        (generator_recipe(plain, clips), (), "'.*clips0' holds no tokens.json, so no ids: name the tokenizer"),
        (generator_recipe(plain, validation=str(clips)), (), "'.*clips0' holds no tokens.json, so no ids"),
        (generator_recipe("shapes"), (), "'shapes' holds no tokens.json, so no ids"),
        (generator_recipe(plain, size=64), (), "data.size 64 must equal"),
        (generator_recipe(plain, fps=4.0), (), "data.fps 4 must equal"),
    ):
        with pytest.raises(PhenakiError, match=said):
            train_generator(recipe, tmp_path / "run", *networks)
    long = generator_recipe(plain, lengths=(7,), length_weights=(1.0,))
    with pytest.raises(PhenakiError, match="no usable clip of 7 frames: .*4 latent frames of 4x4 ids"):
        train_generator(replace(long, generator=replace(long.generator, frames=7)), tmp_path / "run")
    first = cvivit_debug()
    with pytest.raises(PhenakiError, match="tokens' holds token shards, but clips are needed"):
        train_tokenizer(replace(first, data=replace(first.data, sources=(SourceConfig(plain),))), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_given_text_encoder_stays_frozen_and_the_run_belongs_to_it(
    tokenizer: CViViT, text_encoder: WordEncoder, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in text_encoder.state_dict().items()}
    train_generator(generator_recipe("shapes"), tmp_path, tokenizer, text_encoder)
    assert all(torch.equal(before[name], value) for name, value in text_encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in text_encoder.parameters())
    parts = saved(tmp_path)["state"]
    assert parts.keys() == {"generator", "generator_ema", "optimizers", "data"}
    train_generator(generator_recipe("shapes", steps=4), tmp_path, tokenizer, text_encoder)
    for reader in (other(text_encoder), None):
        with pytest.raises(PhenakiError, match="builds on another text encoder"):
            train_generator(generator_recipe("shapes", steps=5), tmp_path, tokenizer, reader)


# ---- broken files


def data_config(folder: Path, **changes: object) -> DataConfig:
    return replace(cvivit_debug().data, sources=(SourceConfig(str(folder)),), **changes)


@pytest.fixture
def some_broken(clips: Path, tmp_path: Path) -> Path:
    """21 clips and 2 broken files."""
    folder = tmp_path / "some_broken"
    folder.mkdir()
    for number in range(21):
        (folder / f"{number:02d}.mp4").write_bytes((clips / f"{number % 7}.mp4").read_bytes())
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"no video at all" * 99)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_goes_on_past_broken_files_and_names_them(
    workers: int, some_broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = cvivit_debug()
    recipe = replace(recipe, data=data_config(some_broken, workers=workers), run=replace(recipe.run, steps=12))
    train_tokenizer(recipe, tmp_path / "run")
    named = (tmp_path / "run" / BAD_SAMPLES).read_text().splitlines()
    assert sorted(line.partition(": ")[0] for line in named) == ["empty.mp4", "text.mp4"]
    said = capsys.readouterr().err
    assert all(f"skipped: {line}" in said for line in named)
    assert re.search(r"2 samples were unusable and skipped; .*bad_samples.txt names them\n$", said)
    longer = replace(recipe, run=replace(recipe.run, steps=30))
    train_tokenizer(longer, tmp_path / "run")  # each is named once, also by a resumed run
    assert (tmp_path / "run" / BAD_SAMPLES).read_text().splitlines() == named


def test_too_many_broken_files_stop_a_training(some_broken: Path, tmp_path: Path) -> None:
    recipe = replace(cvivit_debug(), data=data_config(some_broken, max_bad_fraction=0.02))
    said = r"\d+ of 1\d\d samples .* data.max_bad_fraction 0.02; .* with data.max_bad_fraction=0.[123]$"
    with pytest.raises(PhenakiError, match=said):
        train_tokenizer(recipe, tmp_path / "run")


def test_a_run_that_was_stopped_by_its_data_goes_on_with_a_larger_share(some_broken: Path, tmp_path: Path) -> None:
    recipe = replace(cvivit_debug(), data=data_config(some_broken, max_bad_fraction=0.02))
    recipe = replace(recipe, run=replace(recipe.run, steps=60, log_every=1))
    with pytest.raises(PhenakiError, match="more than data.max_bad_fraction 0.02"):
        train_tokenizer(recipe, tmp_path / "run")
    done = len(losses(tmp_path / "run"))
    assert saved(tmp_path / "run")["step"] == done > 0
    data = data_config(some_broken, max_bad_fraction=0.5, validation="shapes")
    train_tokenizer(replace(recipe, data=data, run=replace(recipe.run, steps=done + 2)), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == done + 2


def test_a_bad_sample_is_named_once_whatever_its_reason(tmp_path: Path) -> None:
    recipe = cvivit_debug()
    for moment in (1, 2, 2, 3):
        with Run(tmp_path, recipe.run, recipe) as run:
            run.skip_sample(f"clip.mp4: it is broken at {moment} s")
            run.skip_sample(f"other.mp4: it is broken at {moment} s")
    assert len((tmp_path / BAD_SAMPLES).read_text().splitlines()) == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_captions_that_the_text_encoder_cannot_read_are_left_out(
    frozen: bool, clips: Path, tokenizer: CViViT, text_encoder: WordEncoder, tmp_path: Path
) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "0.txt").write_text("a word " * 999)
    recipe = generator_recipe(tmp_path / "clips", max_bad_fraction=1.0, workers=1)
    train_generator(recipe, tmp_path / "run", tokenizer, text_encoder if frozen else None)
    named = (tmp_path / "run" / BAD_SAMPLES).read_text()
    assert "0.mp4: the prompt has 1,998 words" in named
    assert list((tmp_path / "run").glob("samples_*.png"))


@pytest.mark.parametrize("validation", ["", "shapes"])
def test_nothing_usable_is_an_error_before_the_first_step(validation: str, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "0.mp4").write_bytes(b"no video")
    recipe = replace(cvivit_debug(), data=data_config(folder, validation=validation))
    with pytest.raises(PhenakiError, match=r"no usable clip|0 usable samples"):
        train_tokenizer(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_first_frame_decoded_alone_is_trained_on_alone() -> None:
    alone = ["sampling.rollout.first_frame_alone=true", "data.lengths=[5]", "data.length_weights=[1]"]
    with pytest.raises(PhenakiError, match="first_frame_alone.*set prefix.alone above 0, or add 1 to data.lengths"):
        override(masked_debug(), alone)
    assert override(masked_debug(), [*alone, "prefix.alone=0.2"]).prefix.alone == 0.2
    assert override(masked_debug(), alone[:1]).data.lengths == (1, 5)
