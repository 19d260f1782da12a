"""Models to the Hugging Face hub and back, through a hub on the loopback interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import phenaki
from helpers.hub import TOKEN, HubServer, serve_hub
from helpers.sampling import sampling_config
from phenaki.cli import app
from phenaki.conditioning import TextEncoder, WordEncoder
from phenaki.core.card import read_metadata, with_metadata
from phenaki.core.errors import PhenakiError
from phenaki.generators import Components, Generator, MaskedTransformer
from phenaki.pipeline import Phenaki, Tokenizer, load_part
from phenaki.pipeline.card import model_metadata
from phenaki.pipeline.domain import Domain
from phenaki.tokenizers import CViViT

FILES = [
    "README.md",
    "config.json",
    "model.json",
    *(
        f"{kind}/{name}"
        for kind in ("generator", "text", "tokenizer")
        for name in ("config.json", "weights.safetensors")
    ),
]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serve_hub(tmp_path / "cache") as server:
        yield server


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    domain = Domain("moving shapes", ("a red circle",), license="Apache-2.0")
    return Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=2), domain)


def test_a_model_goes_to_the_hub_and_comes_back(model: Phenaki, hub: HubServer, tmp_path: Path) -> None:
    address = model.push_to_hub("owner/name", private=True)
    assert address.startswith(f"{hub.url}/owner/name/commit/")
    assert sorted(hub.repositories["owner/name"]["main"]) == sorted(FILES)
    assert hub.private == {"owner/name"} and f"Bearer {TOKEN}" in hub.tokens
    loaded = Phenaki.from_pretrained("owner/name", device="cpu")
    video = model.generate("a red circle", frames=3, seed=1).video
    assert torch.equal(loaded.generate("a red circle", frames=3, seed=1).video, video)
    assert loaded.domain == model.domain and loaded.name == "owner/name"
    summary = json.loads(hub.repositories["owner/name"]["main"]["config.json"])  # the hub counts its downloads
    assert summary["architectures"] == ["CViViT", "MaskedTransformer", "WordEncoder"]
    assert isinstance(phenaki.load("owner/name/tokenizer", "cpu"), CViViT)
    assert isinstance(Tokenizer.from_pretrained("owner/name", "cpu"), CViViT)
    assert isinstance(load_part("owner/name", "text"), WordEncoder)
    hub.status = 500  # the files of the cache are used
    again = Phenaki.from_pretrained("owner/name", "cpu", local_files_only=True)
    assert torch.equal(again.generate("a red circle", frames=3, seed=1).video, video)


def test_revisions_and_caches(model: Phenaki, hub: HubServer, tmp_path: Path) -> None:
    model.push_to_hub("owner/name", revision="half", commit_message="first", token="hf_other")
    assert "Bearer hf_other" in hub.tokens and not hub.repositories["owner/name"]["main"]
    Phenaki.from_pretrained("owner/name", "cpu", revision="half", cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "models--owner--name").is_dir()
    with pytest.raises(PhenakiError, match="'owner/name' has no revision 'whole' on the Hugging Face hub"):
        Phenaki.from_pretrained("owner/name", "cpu", revision="whole")
    with pytest.raises(PhenakiError, match="'owner/nothing', and no such model on the Hugging Face hub"):
        Phenaki.from_pretrained("owner/nothing")
    with pytest.raises(PhenakiError, match="not in the local cache.*hf download owner/new"):
        Phenaki.from_pretrained("owner/new", local_files_only=True)


def test_components_go_alone(model: Phenaki, hub: HubServer, tmp_path: Path) -> None:
    model.tokenizer.push_to_hub("owner/tokenizer")
    files = hub.repositories["owner/tokenizer"]["main"]
    assert sorted(files) == ["README.md", "config.json", "weights.safetensors"]
    values, text = read_metadata(files["README.md"].decode())
    assert values == {"library_name": "phenaki", "tags": ["phenaki", "tokenizer"]} and "CViViT" in text
    for kind in (CViViT, Tokenizer):
        assert isinstance(kind.from_pretrained("owner/tokenizer", "cpu"), CViViT)
    with pytest.raises(PhenakiError, match="a tokenizer of the class CViViT, which is no MaskedTransformer"):
        MaskedTransformer.from_pretrained("owner/tokenizer")


def test_components_are_found_in_a_model(model: Phenaki, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    for kind, found in (
        (Tokenizer, CViViT),
        (Generator, MaskedTransformer),
        (TextEncoder, WordEncoder),
        (CViViT, CViViT),
    ):
        assert type(kind.from_pretrained(tmp_path / "model", "cpu")) is found
    assert type(Tokenizer.from_pretrained("shapes-64")) is CViViT
    model.tokenizer.save_pretrained(tmp_path / "half", torch.float16)
    ids = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    decoded = Tokenizer.from_pretrained(tmp_path / "half", "cpu").decode(ids)
    assert torch.allclose(decoded, model.tokenizer.decode(ids), atol=0.05)


@pytest.mark.parametrize(
    ("status", "message"), [(401, r"refuses to write .*\(401\): run `hf auth login`"), (500, r"\(500\)")]
)
def test_a_hub_that_refuses_is_explained(model: Phenaki, hub: HubServer, status: int, message: str) -> None:
    hub.status = status
    with pytest.raises(PhenakiError, match=message):
        model.push_to_hub("owner/name")


def test_a_name_that_is_none(model: Phenaki) -> None:
    with pytest.raises(PhenakiError, match="'name' is no repository on the Hugging Face hub: pass owner/name"):
        model.push_to_hub("name")


# ---- cards


def test_a_saved_model_has_a_card_that_the_hub_reads(model: Phenaki, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    values, text = read_metadata((tmp_path / "model" / "README.md").read_text())
    assert values == {
        "library_name": "phenaki",
        "pipeline_tag": "text-to-video",
        "license": "apache-2.0",
        "tags": ["phenaki", "text-to-video"],
    }
    assert "moving shapes" in text and 'phenaki.load("model")' in text and "- a red circle" in text


def test_a_card_keeps_what_it_says() -> None:
    card = with_metadata("# Mine\n", {"license": "mit", "tags": ["a"]})
    assert read_metadata(card) == ({"license": "mit", "tags": ["a"]}, "# Mine\n")
    again = with_metadata(card, {"license": "apache-2.0", "library_name": "phenaki"})
    assert read_metadata(again) == ({"license": "mit", "tags": ["a"], "library_name": "phenaki"}, "# Mine\n")
    assert read_metadata("---\nno end") == ({}, "---\nno end")


def test_cards_and_metrics_of_others_may_hold_anything() -> None:
    with pytest.raises(PhenakiError, match="the metadata at the top of the model card"):
        read_metadata("---\na: [\n---\ntext")
    for metrics in ({"prompts": []}, {"prompts": {"protocol": 1, "one_object": {"rate": 10**400}}}):
        assert model_metadata(Domain(), "x", metrics)["model-index"][0]["results"] == []


def test_a_trained_folder_is_pushed_with_its_card_and_metrics(model: Phenaki, hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "README.md").write_text("# My own words\n")
    metrics = {"reconstruction": {"protocol": {"world": "shapes"}, "psnr": 31.83297}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / ".secret.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    result = CliRunner().invoke(app, ["push", str(folder), "owner/name", "--revision", "v1"])
    assert result.exit_code == 0 and "/owner/name/commit/" in result.output
    files = hub.repositories["owner/name"]["v1"]
    assert sorted(files) == sorted([*FILES, "metrics.json"])
    values, text = read_metadata(files["README.md"].decode())
    assert text == "# My own words\n" and values["library_name"] == "phenaki"
    (found,) = values["model-index"][0]["results"]
    assert found["metrics"][0]["value"] == 31.833 and found["dataset"]["name"] == "shapes"
    assert (folder / "README.md").read_text() == "# My own words\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(app, ["push", str(empty), "owner/name"])
    assert result.exit_code == 2 and "is no folder of a model" in result.output
