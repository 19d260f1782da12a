"""Components on disk: a folder with config.json and weights.safetensors, which alone rebuilds a module."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from phenaki.core.arguments import check_types
from phenaki.core.config import from_dict, non_default, quoted, to_dict
from phenaki.core.errors import PhenakiError, did_you_mean, shortened
from phenaki.core.files import parse_json_object, write_folder_atomic, writing
from phenaki.core.hub import MODEL_FILE
from phenaki.core.memory import lay_out
from phenaki.core.reading import read_regular
from phenaki.core.registry import REGISTRIES
from phenaki.core.version import __version__
from phenaki.core.weights import check_fits, read_safetensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
REQUIRED = ("tokenizer", "generator", "text")  # the kinds of component that every complete model has
CRITIC = "critic"  # the kind that is optional


class ExternalWeights:
    """Marks a component whose weights are published elsewhere: its folder holds config.json alone.

    The configuration's `name` and `revision` say where the weights are, and `dtype` in which type they are loaded.
    """


@check_types
def save_component(module: nn.Module, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a module of a registered class, and its `config`, to `folder`: config.json and weights, both or neither.

    `dtype` converts floating-point weights (torch.float16 halves a release). Missing parent folders are created. Raises
    PhenakiError for an unregistered class, and where it cannot write.
    """
    folder = Path(folder)
    description = {"type": _type_of(module), "config": to_dict(module.config), "phenaki": __version__}
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomic(folder) as new:
        if state := _own_state(module):
            _save_weights(new / WEIGHTS_FILE, _converted(state, dtype))
            description["sha256"] = _checksum(description, new / WEIGHTS_FILE)
        (new / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if state:
            shutil.copymode(new / CONFIG_FILE, new / WEIGHTS_FILE)  # safetensors creates files for their owner only


@check_types
def load_component(folder: str | Path, kind: str | None = None) -> nn.Module:
    """The component in `folder`, in evaluation mode on the CPU.

    `kind` ("tokenizer", "generator", "text", "critic") refuses other components; None takes any. Raises PhenakiError
    for types that are not registered, and as `read_config`, `from_dict` and `load_weights` do.
    """
    name, values = read_config(folder)
    config_file = Path(folder) / CONFIG_FILE
    if kind is not None and kind not in REGISTRIES:
        raise PhenakiError(f"there is no kind of component {quoted(kind)}: there are {', '.join(REGISTRIES)}")
    try:
        entry = REGISTRIES[kind or component_kind(folder)][name]
    except PhenakiError as error:
        raise PhenakiError(f"'{config_file}': {error}") from error
    config = from_dict(entry.config, values, where=f"'{config_file}'")
    if issubclass(entry.model, ExternalWeights):
        return entry.model(config).eval()
    outline = lay_out(lambda: entry.model(config), f"'{config_file}'")
    if own := outline.state_dict():
        weights = Path(folder) / WEIGHTS_FILE
        state = _read_weights(weights)
        check_fits(type(outline), own, state, f"'{weights}'")
        check_intact(folder)
    module = entry.model(config)
    if own:
        module.load_state_dict(state)
    return module.eval()


def check_intact(folder: str | Path) -> None:
    """Raise PhenakiError if configuration or weights differ from those that `save_component` wrote.

    Folders of older versions, and those of external weights, have no checksum.
    """
    path = Path(folder) / CONFIG_FILE
    description = read_json(path)
    if "sha256" in description and description["sha256"] != _checksum(description, path.parent / WEIGHTS_FILE):
        raise PhenakiError(
            f"'{folder}' is damaged, or was changed: the checksum in {CONFIG_FILE} is not that of its type, its config "
            f'and {WEIGHTS_FILE}. Copy or download it again, or, if the change is yours, remove "sha256" from that file'
        )


def is_component(folder: Path) -> bool:
    """Whether `folder` is that of a component. A whole model from the hub has a config.json too, which says little."""
    return (folder / CONFIG_FILE).is_file() and not (folder / MODEL_FILE).is_file()


def component_kind(folder: str | Path) -> str:
    """The kind of the component in `folder`: "tokenizer", "generator", "text" or "critic"."""
    name, _ = read_config(folder)
    for kind, registry in REGISTRIES.items():
        if name in registry.types:
            return kind
    known = [name for registry in REGISTRIES.values() for name in registry.types]
    raise PhenakiError(
        f"'{Path(folder) / CONFIG_FILE}' has the unknown type {quoted(name)}; known types: {', '.join(known)}."
        f"{did_you_mean(name, known)}"
    )


def read_component(folder: str | Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The type, the configuration as plain data, and the weights as stored (on the CPU) of the component in `folder`.

    Raises PhenakiError for a missing folder, one without a component, and broken files.
    """
    name, config = read_config(folder)
    return name, config, _read_weights(Path(folder) / WEIGHTS_FILE)


def read_config(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """The type and the configuration as plain data of the component in `folder`, without its weights."""
    path = Path(folder) / CONFIG_FILE
    description = read_json(path)
    name, config = description.get("type"), description.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise PhenakiError(f"'{path}' does not describe a phenaki component: it needs the keys 'type' and 'config'.")
    return name, config


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder. Raises PhenakiError for a missing or malformed file."""
    folder = path.parent
    if not os.path.isdir(folder):
        raise PhenakiError(f"'{folder}' {'is a file, not a folder' if os.path.exists(folder) else 'does not exist'}.")
    if not path.is_file():
        inside = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
        found = f"it contains {shortened(inside)} but no {path.name}" if inside else "it is empty"
        raise PhenakiError(f"'{folder}' is not a model folder: {found}.")
    try:
        data = read_regular(path)
    except OSError as error:
        raise PhenakiError(f"'{path}' cannot be read: {error.strerror}.") from error
    return parse_json_object(data, f"'{path}'")


def fingerprint(component: nn.Module | str | Path) -> str:
    """SHA-256 over configuration and weights of a module with a `config`, or of a component's folder, in hex.

    Floating-point weights are hashed as float32, so a component saved in float16 and the module loaded from it agree.
    Only non-default configuration values are hashed, so a new field with a default changes nothing. External weights
    are hashed as loaded, whatever source and dtype the configuration names.
    """
    if isinstance(component, nn.Module):
        config, state = component.config, component.state_dict()
    else:
        name, values, state = read_component(component)
        config_class = REGISTRIES[component_kind(component)][name].config
        config = from_dict(config_class, values, where=f"'{Path(component) / CONFIG_FILE}'")
    settings = non_default(config)
    if external := isinstance(component, ExternalWeights):
        settings = {key: value for key, value in settings.items() if key not in ("name", "revision", "dtype")}
    if not external:
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return sha256(settings, state)


def sha256(values: Any, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over JSON-serialisable values and named tensors, in hex."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(description: Mapping[str, Any], weights: Path) -> str:
    """SHA-256 over type and configuration as stored, and the bytes of the weights file, in hex."""
    described = json.dumps([description["type"], description["config"]], sort_keys=True)
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha256(described.encode()))
    return digest.hexdigest()


def _save_weights(path: Path, state: dict[str, Tensor]) -> None:
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it reports system errors, such as a full disk, in its message only
        code = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(code[1]), str(error)) if code else error) from error


def _type_of(module: nn.Module) -> str:
    for registry in REGISTRIES.values():
        if name := registry.name_of(type(module)):
            return name
    known = ", ".join(entry.model.__name__ for registry in REGISTRIES.values() for entry in registry.types.values())
    raise PhenakiError(f"A {type(module).__name__} cannot be saved as a component; classes that can be: {known}.")


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of the state that is saved in the component's own folder."""
    return {} if isinstance(module, ExternalWeights) else module.state_dict()


def _converted(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    def convert(tensor: Tensor) -> Tensor:
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to("cpu", wanted, copy=True).contiguous()  # safetensors refuses tied weights

    return {name: convert(tensor) for name, tensor in state.items()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PhenakiError(f"'{path.parent}' has no {path.name}: the weights of this component are missing.")
    return read_safetensors(path)
