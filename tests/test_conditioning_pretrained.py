"""T5 and CLIP: frozen, never saved, independent of padding, and errors if they are missing."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.encoders import tiny_clip, tiny_t5
from helpers.reproductions import COSINE, golden, maskgit_of, tokenizer_of
from helpers.sampling import sampling_config
from phenaki.compat import PegMaskGit
from phenaki.conditioning import CLIPConfig, CLIPEncoder, T5Config, T5Encoder, TextEncoder, named_config
from phenaki.core.components import fingerprint, read_component
from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.generators import Components, MaskedTransformer, MaskedTransformerSizes
from phenaki.pipeline import Phenaki, load, load_text_encoder
from phenaki.tokenizers import CViViT

PROMPTS = ["a red circle moves to the right", "a cat", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("encoders")
    return {"t5": tiny_t5(root / "t5"), "clip": tiny_clip(root / "clip")}


@pytest.fixture(scope="module")
def t5(folders: dict[str, str]) -> T5Encoder:
    return load_text_encoder(folders["t5"])


@pytest.fixture(scope="module")
def clip(folders: dict[str, str]) -> CLIPEncoder:
    return load_text_encoder(folders["clip"])


@pytest.fixture(scope="module")
def pooled(folders: dict[str, str]) -> CLIPEncoder:
    return CLIPEncoder(replace(named_config(folders["clip"]), pooled=True))


@pytest.fixture(params=["t5", "clip", "pooled"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return request.getfixturevalue(request.param)


def generator_for(tokenizer: CViViT, encoder: TextEncoder) -> MaskedTransformer:
    torch.manual_seed(2)
    sizes = MaskedTransformerSizes(frames=3, width=64, layers=1)
    return MaskedTransformer(sizes.config(tokenizer.spec, encoder.width)).eval()


# ---- what they read


def test_the_encoder_is_chosen_by_the_folder(t5: T5Encoder, clip: CLIPEncoder, folders: dict[str, str]) -> None:
    assert t5.config == T5Config(folders["t5"], width=32) and t5.width == 32
    assert clip.config == CLIPConfig(folders["clip"], width=32)


def test_padding_changes_no_prompt(encoder: TextEncoder) -> None:
    together = encoder.encode(PROMPTS)
    assert together.embeddings.dtype == torch.float32 and together.mask.dtype == torch.bool
    for row, prompt in enumerate(PROMPTS):
        alone, mask = encoder.encode([prompt]), together.mask[row]
        assert alone.mask.all() and mask.sum() == alone.mask.sum()
        assert torch.allclose(together.embeddings[row][mask], alone.embeddings[0], atol=1e-5)
    assert len(set(together.mask.sum(1).tolist())) == len(PROMPTS)


def test_embeddings_distinguish_words(encoder: TextEncoder) -> None:
    tokens = encoder.tokenize(["red circle", "cat"])
    assert not torch.equal(tokens[0], tokens[1])
    one, other = (encoder.encode([prompt]).embeddings.mean(1) for prompt in ("a red circle", "a red cat"))
    assert not torch.allclose(one, other, atol=1e-3)


def test_embeddings_are_those_of_transformers(t5: T5Encoder, pooled: CLIPEncoder, folders: dict[str, str]) -> None:
    import transformers

    for encoder, kind in ((t5, transformers.T5EncoderModel), (pooled, transformers.CLIPModel)):
        folder = encoder.config.name
        read = transformers.AutoTokenizer.from_pretrained(folder)(PROMPTS[0], return_tensors="pt")
        model = kind.from_pretrained(folder).eval()
        with torch.no_grad():
            wanted = (model if kind is transformers.T5EncoderModel else model.text_model)(**read).last_hidden_state
            if encoder is pooled:
                features = model.get_text_features(**read)
                last = features if isinstance(features, torch.Tensor) else features.pooler_output
                wanted = torch.cat((wanted, last[:, None]), 1)
        assert torch.allclose(encoder.encode(PROMPTS[:1]).embeddings, wanted, atol=1e-5)


def test_the_pooled_embedding_is_one_token_more(clip: CLIPEncoder, pooled: CLIPEncoder) -> None:
    tokens, more = clip.encode(PROMPTS), pooled.encode(PROMPTS)
    assert torch.equal(more.embeddings[:, :-1], tokens.embeddings) and more.mask[:, -1].all()
    assert not torch.allclose(more.embeddings[:, -1], tokens.embeddings[:, -1], atol=1e-3)


def test_long_prompts_are_truncated_with_a_warning(folders: dict[str, str]) -> None:
    for kind in (T5Encoder, CLIPEncoder):
        whole = named_config(folders["t5" if kind is T5Encoder else "clip"])
        encoder = kind(replace(whole, length=10))
        with pytest.warns(
            PhenakiWarning, match=r"reads 10: it is truncated after '\.\.\.a red .*'\. Shorten"
        ) as warned:
            text = encoder.encode(["a red circle moves to the right"] * 2)
        assert text.mask.sum(1).tolist() == [10, 10] and len(warned) == 1
        with warnings.catch_warnings(action="error"):
            encoder.encode(["a", ""])


def test_truncated_prompts_keep_the_end_token(folders: dict[str, str]) -> None:
    encoder = T5Encoder(T5Config(folders["t5"], width=32, length=5))
    assert encoder.tokenize(["a red circle moves"])[0, -1] == 1 + 1  # </s> is 1


# ---- frozen


def test_they_stay_frozen_and_in_their_own_dtype(tmp_path: Path, folders: dict[str, str]) -> None:
    stored = load_text_encoder(tiny_t5(tmp_path / "t5", dtype=torch.bfloat16))
    wanted = T5Encoder(T5Config(folders["t5"], width=32, dtype="bfloat16"))
    for encoder in (stored, wanted):
        encoder.train()
        assert not any(module.training for module in encoder.network.modules())
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert encoder.network.get_input_embeddings().weight.dtype == torch.bfloat16
        with torch.enable_grad():
            text = encoder.encode(["a red circle"])
        assert text.embeddings.dtype == torch.float32 and not text.embeddings.requires_grad


def test_autocast_changes_nothing(t5: T5Encoder) -> None:
    plain = t5.encode(PROMPTS).embeddings
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(t5.encode(PROMPTS).embeddings, plain)


# ---- in a model


def test_a_model_holds_their_name_and_no_weights(
    t5: T5Encoder, clip: CLIPEncoder, tokenizer: CViViT, tmp_path: Path, folders: dict[str, str]
) -> None:
    for encoder in (t5, clip):
        folder = tmp_path / type(encoder).__name__
        model = Phenaki(Components(generator_for(tokenizer, encoder), tokenizer, encoder), sampling_config(steps=2))
        model.save_pretrained(folder)
        assert [file.name for file in (folder / "text").iterdir()] == ["config.json"]
        said = json.loads((folder / "text" / "config.json").read_text())["config"]
        assert {"name", "revision", "length"} <= said.keys() and said["name"] == encoder.config.name
        assert not any("network" in name for name in read_component(folder / "generator")[2])
        again = load(folder, device="cpu")
        assert type(again.text_encoder) is type(encoder) and again.text_encoder.config == encoder.config
        made = [m.generate("a red circle", frames=3, seed=1).video for m in (model, again)]
        assert torch.equal(*made)
        assert type(load(folder / "text", device="cpu")) is type(encoder)
        assert load_text_encoder(str(folder)).config == encoder.config


def test_imported_maskgits_read_t5(tmp_path: Path) -> None:
    case = golden(COSINE)
    generator = maskgit_of(case, tmp_path, frames=5)
    encoder = load_text_encoder(tiny_t5(tmp_path / "t5", width=generator.config.text_width))
    model = Phenaki(
        Components(generator, tokenizer_of(case, tmp_path), encoder), sampling_config(steps=2, prime_frames=3)
    )
    model.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", device="cpu")
    assert isinstance(model.generator, PegMaskGit) and isinstance(model.text_encoder, T5Encoder)
    story = model.generate(["a red circle", "it jumps"], seed=1)
    assert story.video.shape == (1, 3, 9, 32, 32)
    assert not torch.equal(story.video, model.generate(["a cat", "it jumps"], seed=1).video)


def test_the_fingerprint_is_that_of_what_is_read(t5: T5Encoder, folders: dict[str, str], tmp_path: Path) -> None:
    mark = fingerprint(t5)
    shutil.copytree(folders["t5"], tmp_path / "copy")
    assert fingerprint(load_text_encoder(str(tmp_path / "copy"))) == mark  # wherever it lies
    others = [
        T5Encoder(replace(t5.config, length=64)),
        T5Encoder(replace(t5.config, dtype="bfloat16")),
        load_text_encoder(tiny_t5(tmp_path / "other", seed=1)),
    ]
    assert len({mark, *map(fingerprint, others)}) == 4


# ---- sentences


def test_missing_encoders_are_named_with_what_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = "not in the local Hugging Face cache.*`hf download google/t5-v1_1-xxl` to put it into.*--local-dir DIR"
    for opened in (named_config, load_text_encoder, lambda name: T5Encoder(T5Config(name, width=4096))):
        with pytest.raises(PhenakiError, match=said):
            opened("google/t5-v1_1-xxl")
    with pytest.raises(PhenakiError, match="hf download google/t5-v1_1-xxl --revision 1a2b"):
        T5Encoder(T5Config("google/t5-v1_1-xxl", width=4096, revision="1a2b"))
    with pytest.raises(PhenakiError, match="there is no folder '/nowhere/t5'"):
        load_text_encoder("/nowhere/t5")


def test_the_users_cache_is_read_by_name(folders: dict[str, str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--some--t5"
    shutil.copytree(folders["t5"], kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    encoder = load_text_encoder("some/t5")
    assert encoder.config == T5Config("some/t5", width=32)


def test_broken_folders_are_refused(folders: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("empty", "part"):
        shutil.copytree(folders["t5"], tmp_path / name)
    (tmp_path / "empty" / "model.safetensors").unlink()
    with pytest.raises(PhenakiError, match="the text encoder in '.*empty' cannot be loaded"):
        load_text_encoder(str(tmp_path / "empty"))
    file = tmp_path / "part" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "encoder.final_layer_norm" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(
        PhenakiError, match="T5Encoder.* is incomplete: 1 of its weights are missing, such as encoder.final_layer"
    ):
        load_text_encoder(str(tmp_path / "part"))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PhenakiError, match="'.*bert' is a bert: supported text encoders are T5"):
        load_text_encoder(str(tmp_path / "bert"))


def test_widths_and_lengths_that_do_not_fit(
    folders: dict[str, str], t5: T5Encoder, tokenizer: CViViT, tmp_path: Path
) -> None:
    with pytest.raises(PhenakiError, match="have width 32, not 768: set text.width=32"):
        T5Encoder(T5Config(folders["t5"]))
    with pytest.raises(PhenakiError, match="text.length 78: '.*clip' reads at most 77 tokens"):
        CLIPEncoder(CLIPConfig(folders["clip"], width=32, length=78))
    with pytest.raises(PhenakiError, match="length 1 must be at least 2"):
        T5Config(length=1)
    uneven = named_config(tiny_clip(tmp_path / "uneven", projection=16))
    CLIPEncoder(uneven)
    with pytest.raises(PhenakiError, match="has width 16 and its tokens have 32.*text.pooled=false"):
        CLIPEncoder(replace(uneven, pooled=True))
    other = MaskedTransformer(MaskedTransformerSizes(width=64, layers=1).config(tokenizer.spec, 48))
    with pytest.raises(PhenakiError, match="reads text of width 48, and this text has width 32"):
        Components(other, tokenizer, t5)
