"""Checkpoints of other projects become components, whatever wraps them; anything else is refused with a message."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

import phenaki
from helpers.reproductions import COSINE, LOOKUP_FREE, OBVIOUS, files, golden
from phenaki.cli import app
from phenaki.compat import importing
from phenaki.core.components import component_kind
from phenaki.tokenizers import CViViT

State = dict[str, Tensor]


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["import", *(str(argument) for argument in arguments)])


def refused(out: Path, *arguments: object) -> str:
    """The error message of a command that leaves nothing behind."""
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
    """The state with a prefix on its names."""
    return {f"{name}{key}": value for key, value in state.items()}


# ---- what is read


def test_obvious_release_is_imported_without_its_loss_networks(tmp_path: Path, out: Path) -> None:
    held = golden(OBVIOUS).tensors
    others = dict.fromkeys(("i3d.Mixed_3b.weight", "i3d.logits.bias", "loss_fn_lpips.lin0"), torch.ones(2))
    checkpoint, config = files(tmp_path, golden(OBVIOUS).state("tokenizer") | others, {"image_size": 32})
    release = checkpoint.rename(tmp_path / "pytorch_model.bin")
    result = run("obvious-cvivit", release, out, "--config", config)
    assert result.exit_code == 0, result.output
    assert "skipped: i3d (2 tensors), loss_fn_lpips (1 tensor)." in result.output
    assert "without causality" in result.output
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
    card = (out / "README.md").read_text()
    assert "pytorch_model.bin" in card and "i3d (2 tensors)" in card and "Obvious Research" in card
    assert str(tmp_path) not in card
    tokenizer = phenaki.load(out, device="cpu")
    assert torch.equal(tokenizer.encode(held["video"]), held["ids"])
    assert component_kind(out) == "tokenizer"


def wrong(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def wrap_layers(state: State, wrapper: str) -> State:
    """As after wrapping each layer of a network by itself."""
    return {re.sub(r"(layers\.\d+\.)", rf"\1{wrapper}", name, count=1): tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain": lambda state: state,
    "DDP": lambda state: put(state, "module."),
    "layers compiled": lambda state: wrap_layers(state, "_orig_mod."),
    "layers in FSDP": lambda state: put(wrap_layers(state, "_fsdp_wrapped_module."), "_fsdp_wrapped_module."),
    "layers of an older FSDP": lambda state: wrap_layers(state, "_fpw_module."),
    "layers recomputed": lambda state: wrap_layers(state, "_checkpoint_wrapped_module."),
    "layers in all of them": lambda state: put(
        wrap_layers(wrap_layers(state, "_fsdp_wrapped_module."), "_checkpoint_wrapped_module._orig_mod."), "module."
    ),
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
    state = put(golden(LOOKUP_FREE).state("tokenizer"), "cvivit.") | put(maskgit, "maskgit.")
    state |= put(wrong(maskgit), "critic.maskgit.") | {"critic.to_pred.0.weight": torch.ones(1, 48)}
    checkpoint, config = files(tmp_path, {"model": state, "scaler": None}, {"image_size": 32})
    result = run("phenaki-pytorch", checkpoint, out, "--part", "maskgit", "--config", config)
    assert result.exit_code == 0, result.output
    generator = phenaki.load(out, device="cpu")
    assert torch.equal(generator.token_emb.weight, maskgit["token_emb.weight"])
    assert generator.config.tokenizer.patch == (2, 8, 8) and generator.config.tokenizer.vocab_size == 64
    assert generator.config.frames == 15  # 8 latent frames of 16 ids fill its 128 positions


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
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save(state | {"more": Code(tmp_path / "ran")}, checkpoint)
        message = refused(out, "obvious-cvivit", checkpoint, out)
        assert "it was not loaded" in message or "no code in it was run" in message
        assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # so loading it would have run


def test_a_pickled_module_is_not_built(tokenizer: CViViT, tmp_path: Path, out: Path) -> None:
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
        "'vq._codebook.embed' has shape (64, 48), expected 3 dimensions",
    ),
    "numbers are not finite": (
        lambda state: state | {"to_pixels.0.bias": torch.full((384,), torch.nan)},
        "'to_pixels.0.bias' has values that are not finite (1 of",
    ),
    "it has an unknown tensor": (
        lambda state: state | {"vq.orthogonal_rot": torch.zeros(6, 6)},
        "1 unexpected (vq.orthogonal_rot)",
    ),
    "it is grey": (
        lambda state: state | {"to_patch_emb_first_frame.2.weight": torch.zeros(48, 64)},
        "patches of 64 values do not have 3 channels",
    ),
    "another architecture": (
        lambda state: {"encoder.conv_in.weight": torch.zeros(3)},
        "no C-ViViT: it has no tensor 'to_patch_emb_first_frame.2.weight', but encoder.conv_in.weight etc.",
    ),
    "no tensors": (lambda state: {"step": 3}, "holds a dict without tensors"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused(fault: str, state: State, tmp_path: Path, out: Path) -> None:
    breaks, message = BROKEN[fault]
    checkpoint, config = files(tmp_path, breaks(state), {"image_size": 32})
    assert message in refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)


def test_a_file_that_cannot_be_read_is_refused(state: State, tmp_path: Path, out: Path) -> None:
    checkpoint, _ = files(tmp_path, state, {})
    complete = checkpoint.read_bytes()
    cut = complete[:-2000]
    for content in (b"", b"no checkpoint", complete[:5000], cut):
        checkpoint.write_bytes(content)
        message = f"({len(content):,} bytes) is not a complete torch.save file"
        assert message in refused(out, "obvious-cvivit", checkpoint, out)
    (tmp_path / "vae.safetensors").write_bytes(cut)
    assert "not a complete safetensors file" in refused(out, "obvious-cvivit", tmp_path / "vae.safetensors", out)
    assert "there is no checkpoint" in refused(out, "obvious-cvivit", tmp_path / "none.pt", out)
    checkpoint.write_bytes(complete)
    config = ("--config", tmp_path / "none.json")
    assert "there is no --config file" in refused(out, "obvious-cvivit", checkpoint, out, *config)
    message = refused(out, "obvious-cvivit", tmp_path, out)
    assert "is a folder: pass the weights file in it. It contains arguments.json, checkpoint.pt" in message


CONTRADICTED: list[tuple[dict[str, Any] | str, str]] = [
    ({}, 'does not determine image_size: set it with --config FILE.json, such as {"image_size": 128}'),
    ({"image_size": 30}, "image_size (30, 30) is not a multiple of the patch (8, 8)"),
    ({"image_size": -32}, "image_size -32 must be above 0"),
    ({"image_size": 32, "fps": 0}, "fps 0.0 must be above 0"),
    (
        {"image_size": 32, "heads": 3, "dim": 64},
        "does not match the --config: dim 64, but the weights have 48; heads 3",
    ),
    ({"image_size": 32, "patch_size": [4, 8]}, "patch_size 4x8, but the weights have patches of 64 pixels"),
    ({"image_size": 32, "ff_mult": 3}, "ff_mult 3.0 does not fit them"),
    ({"image_size": 32, "head": 2}, "Unknown key 'head'. Did you mean 'heads'?"),
    ({"image_size": "32"}, "image_size must be an integer or "),
    ({"image_size": 32, "lookup_free_quantization_kwargs": {"spherical": True}}, "only networks with their defaults"),
    ("[32]", "must hold a JSON object, not a list"),
    ("{", "cannot be read as JSON"),
]


@pytest.mark.parametrize(("arguments", "message"), CONTRADICTED)
def test_a_configuration_that_does_not_fit_is_refused(
    arguments: dict[str, Any] | str, message: str, state: State, tmp_path: Path, out: Path
) -> None:
    checkpoint, config = files(tmp_path, state, {})
    config.write_text(arguments if isinstance(arguments, str) else json.dumps(arguments))
    assert message in refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)


def test_patch_sizes_that_are_not_square_must_be_given(tmp_path: Path, out: Path, state: State) -> None:
    halved = {"to_patch_emb_first_frame.2.weight": torch.zeros(48, 96), "to_patch_emb.2.weight": torch.zeros(48, 192)}
    checkpoint, config = files(tmp_path, state | halved, {"image_size": 32})
    message = refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)
    assert "patches of 32 pixels are not square: set it" in message


SIZES = {"image_size": 32, "patch_size": 8, "temporal_patch_size": 2}
UNFIT_GENERATORS: list[tuple[Callable[[State], State], dict[str, Any], str]] = [
    (lambda state: state, {}, "does not determine temporal_patch_size"),
    (
        lambda state: state,
        SIZES | {"image_size": 128},
        "are 256 patches of (8, 8), and this MaskGIT has positions for 1 to 128",
    ),
    (lambda state: state, SIZES | {"image_size": 4}, "are 0 patches of (8, 8)"),
    (
        lambda state: state,
        SIZES | {"frames": 17},
        "17 frames of 32x32 are 144 ids, and this generator has positions for 128",
    ),
    (lambda state: state, SIZES | {"frames": 4}, "a clip of 4 frames does not fit"),
    (lambda state: state, SIZES | {"num_tokens": 65}, "num_tokens 65, but the weights have 64"),
    (
        lambda state: {key: t for key, t in state.items() if ".0.2." not in key and ".1.2." not in key},
        SIZES,
        "trained without text (unconditional)",
    ),
    (lambda state: {"to_logits.weight": torch.zeros(1, 48)}, SIZES, "holds no MaskGIT of phenaki-pytorch"),
]


@pytest.mark.parametrize(("breaks", "arguments", "message"), UNFIT_GENERATORS)
def test_a_generator_that_does_not_fit_is_refused(
    breaks: Callable[[State], State], arguments: dict[str, Any], message: str, tmp_path: Path, out: Path
) -> None:
    checkpoint, config = files(tmp_path, breaks(golden(COSINE).state("maskgit")), arguments)
    assert message in refused(out, "phenaki-pytorch", checkpoint, out, "--part", "maskgit", "--config", config)


def test_a_folder_with_files_is_left_alone(state: State, tmp_path: Path, out: Path) -> None:
    checkpoint, config = files(tmp_path, state, {"image_size": 32})
    out.mkdir()
    (out / "README.md").write_text("mine")
    result = run("phenaki-pytorch", checkpoint, out, "--config", config)
    assert result.exit_code == 2 and "already exists: choose a new folder" in result.output
    assert (out / "README.md").read_text() == "mine" and len(list(out.iterdir())) == 1


def test_writing_is_atomic(state: State, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, config = files(tmp_path, state, {"image_size": 32})

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "_card", full)  # the card is written last
    assert "the disk is full" in refused(out, "phenaki-pytorch", checkpoint, out, "--config", config)
