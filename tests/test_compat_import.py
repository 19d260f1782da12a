"""Checkpoints of others become components, whatever is wrapped around them; what is none is refused in a sentence."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

import phenaki
from phenaki.cli import app
from phenaki.compat import importing
from phenaki.core.components import component_kind
from phenaki.tokenizers import CViViT
from reproductions import COSINE, LOOKUP_FREE, OBVIOUS, files, golden

State = dict[str, Tensor]


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["import", *(str(argument) for argument in arguments)])


def refused(out: Path, *arguments: object) -> str:
    """The sentence of a command that leaves nothing behind."""
    result = run(*arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    assert result.output.startswith("phenaki: ") and result.output.count("\n") == 1
    assert not out.exists() and not [file for file in out.parent.iterdir() if file.suffix == ".tmp"]
    return result.output


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def state() -> State:
    return golden(COSINE).state("tokenizer")


def put(state: State, name: str) -> State:
    """The state with names that begin otherwise."""
    return {f"{name}{key}": value for key, value in state.items()}


# ---- what is read


def test_the_release_is_imported_without_its_loss_networks(tmp_path: Path, out: Path) -> None:
    held = golden(OBVIOUS).held
    others = dict.fromkeys(("i3d.Mixed_3b.weight", "i3d.logits.bias", "loss_fn_lpips.lin0"), torch.ones(2))
    checkpoint, config = files(tmp_path, golden(OBVIOUS).state("tokenizer") | others, {"image_size": 32})
    release = checkpoint.rename(tmp_path / "pytorch_model.bin")
    result = run("obvious-cvivit", release, out, "--config", config)
    assert result.exit_code == 0, result.output
    assert "left out: i3d (2 tensors), loss_fn_lpips (1 tensor)." in result.output and "not causal" in result.output
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
    card = (out / "README.md").read_text()
    assert "pytorch_model.bin" in card and "i3d (2 tensors)" in card and "Obvious Research" in card
    assert str(tmp_path) not in card
    tokenizer = phenaki.load(out, device="cpu")
    assert torch.equal(tokenizer.encode(held["video"]), held["ids"])
    assert component_kind(out) == "tokenizer"


def wrong(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain": lambda state: state,
    "DDP": lambda state: put(state, "module."),
    "compiled": lambda state: put(state, "_orig_mod."),
    "trainer": lambda state: {
        "model": state,
        "optim": {"state": {0: {"exp_avg": torch.ones(2)}}, "lr": 1e-4},
        "step": 7,
    },
    "trainer and DDP": lambda state: {"state_dict": put(state, "module.")},
    "EMA beside what it averages": lambda state: (
        {"step": torch.tensor(1)} | put(wrong(state), "online_model.") | put(state, "ema_model.")
    ),
    "EMA in a trainer": lambda state: {"model": put(wrong(state), "module."), "ema": put(state, "ema_model.module.")},
    "with a MaskGIT": lambda state: put(state, "cvivit.") | put(golden(COSINE).state("maskgit"), "maskgit."),
    "float16": lambda state: {key: t.half() if t.is_floating_point() else t for key, t in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_are_taken_off(wrapper: str, state: State, tmp_path: Path, out: Path) -> None:
    checkpoint, config = files(tmp_path, WRAPPED[wrapper](state), golden(COSINE).arguments["tokenizer"])
    result = run("phenaki-pytorch", checkpoint, out, "--config", config)
    assert result.exit_code == 0, result.output
    written = phenaki.load(out, device="cpu").state_dict()
    cast = torch.Tensor.half if wrapper == "float16" else torch.Tensor.float
    assert all(torch.equal(written[name], cast(state[name]).to(written[name].dtype)) for name in written)


def test_a_self_critic_does_not_hide_the_generator(tmp_path: Path, out: Path) -> None:
    maskgit = golden(LOOKUP_FREE).state("maskgit")
    whole = put(golden(LOOKUP_FREE).state("tokenizer"), "cvivit.") | put(maskgit, "maskgit.")
    whole |= put(wrong(maskgit), "critic.maskgit.") | {"critic.to_pred.0.weight": torch.ones(1, 48)}
    checkpoint, config = files(tmp_path, {"model": whole, "scaler": None}, {"image_size": 32})
    result = run("phenaki-pytorch", checkpoint, out, "--part", "maskgit", "--config", config)
    assert result.exit_code == 0, result.output
    generator = phenaki.load(out, device="cpu")
    assert torch.equal(generator.token_emb.weight, maskgit["token_emb.weight"])
    assert generator.config.tokenizer.patch == (2, 8, 8) and generator.config.tokenizer.vocab_size == 64
    assert generator.config.frames == 15  # 8 time steps of 16 ids are the 128 that it holds


def test_safetensors_are_read(state: State, tmp_path: Path, out: Path) -> None:
    _, config = files(tmp_path, {}, {"image_size": [32, 64]})
    save_file(state, tmp_path / "vae.safetensors")
    assert run("phenaki-pytorch", tmp_path / "vae.safetensors", out, "--config", config).exit_code == 0
    assert phenaki.load(out, device="cpu").config.image_size == (32, 64)


# ---- what is refused


class Code:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_carries_code_is_not_run(state: State, tmp_path: Path, out: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    for save in (torch.save, lambda held, path: path.write_bytes(pickle.dumps(held))):
        save(state | {"more": Code(tmp_path / "ran")}, checkpoint)
        sentence = refused(out, "obvious-cvivit", checkpoint, out)
        assert "which was not done" in sentence or "nothing in it was run" in sentence
        assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # so it would have


def test_a_whole_network_in_a_pickle_is_not_built(tokenizer: CViViT, tmp_path: Path, out: Path) -> None:
    torch.save(tokenizer, tmp_path / "network.pt")
    assert "phenaki.tokenizers.cvivit.CViViT" in refused(out, "obvious-cvivit", tmp_path / "network.pt", out)


BROKEN: dict[str, tuple[Callable[[State], dict[str, Any]], str]] = {
    "a key is missing": (
        lambda state: {key: t for key, t in state.items() if key != "to_pixels.0.bias"},
        "do not fit PegCViViT and its configuration: 1 missing (to_pixels.0.bias)",
    ),
    "a key that shows a size is missing": (
        lambda state: {key: t for key, t in state.items() if key != "spatial_rel_pos_bias.net.2.weight"},
        "has no 'spatial_rel_pos_bias.net.2.weight'",
    ),
    "a layer is missing": (
        lambda state: {key: t for key, t in state.items() if "dec_temporal_transformer.layers.1" not in key},
        "missing (dec_temporal_transformer.layers.1.0.dsconv.weight",
    ),
    "a shape is wrong": (
        lambda state: state | {"to_pixels.0.bias": torch.zeros(7)},
        "1 of the wrong shape (to_pixels.0.bias is (7,), expected (384,))",
    ),
    "a shape has other dimensions": (
        lambda state: state | {"vq._codebook.embed": torch.zeros(64, 48)},
        "'vq._codebook.embed' is of shape (64, 48) and should have 3 dimensions",
    ),
    "numbers are not finite": (
        lambda state: state | {"to_pixels.0.bias": torch.full((384,), torch.nan)},
        "'to_pixels.0.bias' holds numbers that are not finite (1 of its",
    ),
    "something unknown is in it": (
        lambda state: state | {"vq.orthogonal_rot": torch.zeros(6, 6)},
        "1 unexpected (vq.orthogonal_rot)",
    ),
    "it is grey": (
        lambda state: state | {"to_patch_emb_first_frame.2.weight": torch.zeros(48, 64)},
        "patches of 64 numbers are not of 3 colours",
    ),
    "another architecture": (
        lambda state: {"encoder.conv_in.weight": torch.zeros(3)},
        "no C-ViViT: no tensor is named 'to_patch_emb_first_frame.2.weight', but encoder.conv_in.weight and so on",
    ),
    "no tensors": (lambda state: {"step": 3}, "holds no tensors, but a dict"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused(fault: str, state: State, tmp_path: Path, out: Path) -> None:
    breaks, sentence = BROKEN[fault]
    checkpoint, config = files(tmp_path, breaks(state), {"image_size": 32})
    assert sentence in refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)


def test_a_file_that_cannot_be_read_is_refused(state: State, tmp_path: Path, out: Path) -> None:
    checkpoint, _ = files(tmp_path, state, {})
    whole = checkpoint.read_bytes()
    cut = whole[:-2000]
    for content in (b"", b"no checkpoint", whole[:5000], cut):
        checkpoint.write_bytes(content)
        sentence = f"({len(content):,} bytes) is no whole checkpoint of torch.save"
        assert sentence in refused(out, "obvious-cvivit", checkpoint, out)
    (tmp_path / "vae.safetensors").write_bytes(cut)
    assert "not a complete safetensors file" in refused(out, "obvious-cvivit", tmp_path / "vae.safetensors", out)
    assert "there is no checkpoint" in refused(out, "obvious-cvivit", tmp_path / "none.pt", out)
    checkpoint.write_bytes(whole)
    config = ("--config", tmp_path / "none.json")
    assert "there is no file" in refused(out, "obvious-cvivit", checkpoint, out, *config)
    sentence = refused(out, "obvious-cvivit", tmp_path, out)
    assert "is a folder: name the file of the weights in it. It holds arguments.json, checkpoint.pt" in sentence


CONTRADICTED: list[tuple[dict[str, Any] | str, str]] = [
    ({}, 'does not tell image_size: give it in a file, with --config FILE.json, such as {"image_size": 128}'),
    ({"image_size": 30}, "image_size (30, 30) is not a multiple of the patch (8, 8)"),
    ({"image_size": -32}, "image_size -32 must be above 0"),
    ({"image_size": 32, "fps": 0}, "fps 0.0 must be above 0"),
    (
        {"image_size": 32, "heads": 3, "dim": 64},
        "is not of this configuration: dim 64 where the weights have 48; heads 3",
    ),
    ({"image_size": 32, "patch_size": [4, 8]}, "patch_size 4x8 where the weights have patches of 64 pixels"),
    ({"image_size": 32, "ff_mult": 3}, "ff_mult 3.0 does not fit them"),
    ({"image_size": 32, "head": 2}, "Unknown key 'head'. Did you mean 'heads'?"),
    ({"image_size": "32"}, "image_size must be an integer or "),
    ({"image_size": 32, "lookup_free_quantization_kwargs": {"spherical": True}}, "leave them at their defaults"),
    ("[32]", "must hold a JSON object, not a list"),
    ("{", "cannot be read as JSON"),
]


@pytest.mark.parametrize(("told", "sentence"), CONTRADICTED)
def test_a_configuration_that_does_not_fit_is_refused(
    told: dict[str, Any] | str, sentence: str, state: State, tmp_path: Path, out: Path
) -> None:
    checkpoint, config = files(tmp_path, state, {})
    config.write_text(told if isinstance(told, str) else json.dumps(told))
    said = refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)
    assert sentence in said


def test_patches_that_are_not_square_have_to_be_told(tmp_path: Path, out: Path, state: State) -> None:
    halved = {"to_patch_emb_first_frame.2.weight": torch.zeros(48, 96), "to_patch_emb.2.weight": torch.zeros(48, 192)}
    checkpoint, config = files(tmp_path, state | halved, {"image_size": 32})
    sentence = refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)
    assert "patches of 32 pixels are not square: give it" in sentence


SIZES = {"image_size": 32, "patch_size": 8, "temporal_patch_size": 2}
UNFIT_GENERATORS: list[tuple[Callable[[State], State], dict[str, Any], str]] = [
    (lambda state: state, {}, "does not tell temporal_patch_size"),
    (lambda state: state, SIZES | {"image_size": 128}, "are 256 patches of (8, 8), and this MaskGIT holds 1 to 128"),
    (lambda state: state, SIZES | {"image_size": 4}, "are 0 patches of (8, 8)"),
    (lambda state: state, SIZES | {"frames": 17}, "17 frames of 32x32 are 144 ids, and this generator holds 128"),
    (lambda state: state, SIZES | {"frames": 4}, "a clip of 4 frames does not fit"),
    (lambda state: state, SIZES | {"num_tokens": 65}, "num_tokens 65 where the weights have 64"),
    (
        lambda state: {key: t for key, t in state.items() if ".0.2." not in key and ".1.2." not in key},
        SIZES,
        "trained without text (unconditional)",
    ),
    (lambda state: {"to_logits.weight": torch.zeros(1, 48)}, SIZES, "holds no MaskGIT of phenaki-pytorch"),
]


@pytest.mark.parametrize(("breaks", "told", "sentence"), UNFIT_GENERATORS)
def test_a_generator_that_does_not_fit_is_refused(
    breaks: Callable[[State], State], told: dict[str, Any], sentence: str, tmp_path: Path, out: Path
) -> None:
    checkpoint, config = files(tmp_path, breaks(golden(COSINE).state("maskgit")), told)
    assert sentence in refused(out, "phenaki-pytorch", checkpoint, out, "--part", "maskgit", "--config", config)


def test_a_folder_that_holds_something_is_left_as_it_is(state: State, tmp_path: Path, out: Path) -> None:
    checkpoint, config = files(tmp_path, state, {"image_size": 32})
    out.mkdir()
    (out / "README.md").write_text("mine")
    result = run("phenaki-pytorch", checkpoint, out, "--config", config)
    assert result.exit_code == 2 and "is there already: name a new folder" in result.output
    assert (out / "README.md").read_text() == "mine" and len(list(out.iterdir())) == 1


def test_it_is_written_whole_or_not_at_all(
    state: State, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, config = files(tmp_path, state, {"image_size": 32})

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "_card", full)  # the card is written last
    assert "the disk is full" in refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)
