"""A component's folder alone rebuilds the module; a broken one is refused with a message."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.versions import needs_torch
from phenaki.core import components
from phenaki.core.errors import PhenakiError
from phenaki.core.memory import lay_out
from phenaki.core.registry import Registry
from phenaki.core.weights import load_weights


@dataclass(frozen=True)
class TinyConfig:
    width: int = 3
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise PhenakiError(f"The width must be at least 1, not {self.width}.")


class Tiny(nn.Module):
    """Tied weights, an integer buffer, a scalar buffer and a non-persistent one."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.inner = nn.Linear(config.width, config.width)
        self.tied = nn.Linear(config.width, config.width)
        self.tied.weight = self.inner.weight
        self.register_buffer("counts", torch.arange(config.width))
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("cache", torch.zeros(2), persistent=False)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "REGISTRIES", {"toy": Registry("toy")})
    components.REGISTRIES["toy"].register("tiny", TinyConfig, Tiny)


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny(TinyConfig())


@pytest.fixture
def folder(tmp_path: Path, tiny: Tiny) -> Path:
    components.save_component(tiny, tmp_path / "new" / "model")
    return tmp_path / "new" / "model"


def test_a_folder_alone_rebuilds_the_module(folder: Path, tiny: Tiny) -> None:
    assert sorted(os.listdir(folder)) == ["config.json", "weights.safetensors"]
    loaded = components.load_component(folder, "toy")
    assert isinstance(loaded, Tiny) and loaded.config == tiny.config and not loaded.training
    for name, value in tiny.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.tied.weight is loaded.inner.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_loads_in_the_dtype_of_the_module(
    tmp_path: Path, tiny: Tiny, dtype: torch.dtype
) -> None:
    components.save_component(tiny, tmp_path / "half", dtype=dtype)
    _, _, state = components.read_component(tmp_path / "half")
    assert state["inner.weight"].dtype == dtype and state["counts"].dtype == torch.int64
    loaded = components.load_component(tmp_path / "half", "toy")
    assert torch.equal(loaded.inner.weight, tiny.inner.weight.to(dtype).float())
    assert components.fingerprint(loaded) == components.fingerprint(tmp_path / "half") != components.fingerprint(tiny)


def test_fingerprint_survives_saving_and_distinguishes_models(folder: Path, tiny: Tiny) -> None:
    original = components.fingerprint(tiny)
    assert len(original) == 64 and original == components.fingerprint(folder) == components.fingerprint(str(folder))
    assert original == components.fingerprint(components.load_component(folder, "toy"))
    with torch.no_grad():
        tiny.inner.bias[0] += 1e-6
    assert components.fingerprint(tiny) != original
    tiny.inner.bias.data[0] -= 1e-6
    other = Tiny(TinyConfig(sizes=(1, 3)))
    other.load_state_dict(tiny.state_dict())
    assert components.fingerprint(other) != components.fingerprint(tiny)


def test_a_new_field_with_a_default_does_not_change_the_fingerprint(folder: Path, tiny: Tiny) -> None:
    @dataclass(frozen=True)
    class LaterConfig(TinyConfig):
        later: tuple[int, ...] = field(default_factory=tuple)

    before = components.fingerprint(folder)
    components.REGISTRIES["toy"].register("tiny", LaterConfig, Tiny)
    assert components.fingerprint(components.load_component(folder, "toy")) == components.fingerprint(folder) == before
    tiny.config = LaterConfig(later=(1,))
    assert components.fingerprint(tiny) != before


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights(folder: Path, kept: int) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        PhenakiError, match=r"weights\.safetensors' \([\d,]+ bytes\) is not a complete safetensors file"
    ):
        components.read_component(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PhenakiError, match="nowhere' does not exist"):
        components.read_component(tmp_path / "nowhere")
    with pytest.raises(PhenakiError, match="is a file, not a folder"):
        components.read_component(folder / "config.json")
    with pytest.raises(PhenakiError, match=r"new' is not a model folder: it contains model/ but no config\.json"):
        components.read_component(folder.parent)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(PhenakiError, match=r"has no weights\.safetensors"):
        components.read_component(folder)
    (folder / "config.json").unlink()
    with pytest.raises(PhenakiError, match="it is empty"):
        components.read_component(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "tiny"', "cannot be read as JSON.*line 1 column"),
        ("\xff\x00", "cannot be read as JSON"),
        ("[1, 2]", "must hold a JSON object, not a list"),
        ('{"width": 3}', "needs the keys 'type' and 'config'"),
        (
            '{"type": "tinny", "config": {}}',
            r"config\.json': 'tinny' is not a type of toy; known types: tiny. Did you mean 'tiny'",
        ),
        ('{"type": "tiny", "config": {"widht": 3}}', r"config\.json': Unknown key 'widht'. Did you mean 'width'"),
        ('{"type": "tiny", "config": {"width": 0}}', r"config\.json': The width must be at least 1, not 0"),
        (
            '{"type": "tiny", "config": {"width": 4}}',
            r"do not fit Tiny.*inner\.weight is \(3, 3\), expected \(4, 4\)",
        ),
    ],
)
def test_a_bad_config_is_an_error_message(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PhenakiError, match=message):
        components.load_component(folder, "toy")


def test_weights_of_another_module(tiny: Tiny) -> None:
    state = tiny.state_dict()
    state["extra"] = state.pop("inner.bias")
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    with pytest.raises(PhenakiError, match=r"^here: .* 1 missing \(inner\.bias\); 1 unexpected \(extra\)\.$"):
        load_weights(tiny, state, "here")
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_a_failed_save_changes_nothing(folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(state: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise components.SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(components, "save_file", full)
    other = Tiny(TinyConfig(width=5))
    for target in (folder, folder.parent / "another"):
        with pytest.raises(PhenakiError, match="the disk is full"):
            components.save_component(other, target)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(folder.parent) == ["model"]


def test_weights_have_the_permissions_of_the_configuration(folder: Path) -> None:
    modes = {name: (folder / name).stat().st_mode for name in ("config.json", "weights.safetensors")}
    assert modes["weights.safetensors"] == modes["config.json"]


def test_saving_over_a_component_keeps_the_model_card(folder: Path) -> None:
    (folder / "README.md").write_text("a card")
    other = Tiny(TinyConfig(width=5))
    components.save_component(other, folder)
    assert components.fingerprint(folder) == components.fingerprint(other) and (folder / "README.md").exists()


def test_one_flipped_bit_anywhere_is_noticed(folder: Path) -> None:
    for name in ("weights.safetensors", "config.json"):
        path = folder / name
        sound = path.read_bytes()
        for at in range(0, len(sound), 7):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            try:
                loaded = components.load_component(folder, "toy")
            except PhenakiError:
                continue
            finally:
                path.write_bytes(sound)
            assert name == "config.json" and loaded.config == TinyConfig(), at  # such as a space, or the version


def test_a_relabelled_dtype_is_noticed_and_older_folders_load(folder: Path, tiny: Tiny, tmp_path: Path) -> None:
    components.save_component(tiny, tmp_path / "half", dtype=torch.float16)
    path = tmp_path / "half" / "weights.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"U16"', 1))
    with pytest.raises(PhenakiError, match="of the wrong type .*uint16, expected torch.float32"):
        components.load_component(tmp_path / "half", "toy")

    description = components.read_json(folder / "config.json")
    del description["sha256"]
    (folder / "config.json").write_text(json.dumps(description))
    assert torch.equal(components.load_component(folder, "toy").inner.weight, tiny.inner.weight)


@pytest.mark.parametrize("width", [10**5, 10**7, 10**15, 2**62])
def test_sizes_are_compared_before_memory_is_taken(folder: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def measured(*sizes: object, **options: object) -> torch.Tensor:
        made = real(*sizes, **options)
        assert made.is_meta or made.nbytes < 2**20
        return made

    monkeypatch.setattr(torch, "empty", measured)
    (folder / "config.json").write_text(json.dumps({"type": "tiny", "config": {"width": width}}))
    with pytest.raises(PhenakiError, match="do not fit Tiny|GiB of memory|can be built of these sizes"):
        components.load_component(folder, "toy")


def test_a_network_of_countless_layers_is_refused_in_seconds() -> None:
    with pytest.raises(PhenakiError, match="^the recipe: the network has more than 20,000 tensors"):
        lay_out(lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**9)), "the recipe")


def test_json_nested_too_deep_is_a_sentence(folder: Path) -> None:
    for depth in (200, 100_000):
        (folder / "config.json").write_text('{"type": "tiny", "config": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(PhenakiError, match="nested too deep"):
            components.load_component(folder, "toy")


@needs_torch("2.13")
def test_a_model_loads_without_torchs_compiler() -> None:
    """On the meta device, tensors that are filled or multiplied would import it, which takes a second."""
    code = "import sys, phenaki; phenaki.load('shapes-64'); print('torch._dynamo' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
