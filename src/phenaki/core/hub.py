"""Where models lie: a folder per component, of config.json and weights.safetensors, and names that lead to folders."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from phenaki import __version__
from phenaki.core.config import chosen, from_dict, to_dict
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.files import write_folder_whole, writing

CONFIG = "config.json"
MODEL = "model.json"  # in the folder of a whole model
WEIGHTS = "weights.safetensors"
ZOO = Path(__file__).parents[1] / "zoo"
_HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"  # of the Hugging Face hub
ROOMS = ("tokenizer", "generator", "text")  # where a component's class is registered, and its folder in a whole model
CRITIC = "critic"  # the room, and the folder, of a component that a model may be without
_MODULES = {"tokenizer": "tokenizers", "generator": "generators", "text": "conditioning", CRITIC: "generators.critic"}
COMPAT = "compat"  # where the classes of the earlier reproductions are registered, for each room


class WeightsElsewhere:
    """Marks a component whose weights lie with those who made them: its own folder holds config.json alone, whose
    `name` and `revision` say where, and `dtype` in which type they are taken."""


def save_component(
    module: nn.Module, folder: str | Path, kind: str, config: Any, dtype: torch.dtype | None = None
) -> None:
    """Write `module` as the component `folder`: config.json and, if it has weights of its own, weights.safetensors,
    both whole or neither.

    `kind` is its name in the room's REGISTRY, `config` its dataclass; `dtype` stores floating weights in another type
    (torch.float16 halves a release). Missing parent folders are created. Raises PhenakiError where it cannot write.
    """
    folder = Path(folder)
    description = {"type": kind, "config": to_dict(config), "phenaki": __version__}
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_whole(folder) as new:
        (new / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if not _own_state(module):
            return
        try:
            save_file(_stored(module.state_dict(), dtype), new / WEIGHTS, metadata={"format": "pt"})
            shutil.copymode(new / CONFIG, new / WEIGHTS)  # safetensors lets nobody but the owner read its files
        except SafetensorError as error:  # it tells the system's errors, such as a full disk, as text alone
            code = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(code[1]), str(error)) if code else error) from error


def read_component(folder: str | Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The type, the plain configuration and the weights (on the CPU, in the dtype they are stored in) of a component.

    Raises PhenakiError for a missing folder, one that holds no component, a broken config.json and broken weights.
    """
    kind, config = read_config(folder)
    return kind, config, _read_weights(Path(folder) / WEIGHTS)


def read_config(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """The type and the plain configuration of the component in `folder`, without its weights."""
    path = Path(folder) / CONFIG
    description = read_json(path)
    kind, config = description.get("type"), description.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise PhenakiError(f"'{path}' describes no component of phenaki: it needs the keys 'type' and 'config'.")
    return kind, config


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises PhenakiError that says what lies there instead."""
    folder = path.parent
    if not folder.is_dir():
        raise PhenakiError(f"'{folder}' is {'a file, not a folder' if folder.exists() else 'no folder that exists'}.")
    if not path.is_file():
        inside = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
        found = f"only {_first(inside)}" if inside else "nothing; it is empty"
        raise PhenakiError(f"'{folder}' is no folder of a model: it holds no {path.name}, {found}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PhenakiError(f"'{path}' cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise PhenakiError(f"'{path}' must hold a JSON object, not a {type(data).__name__}.")
    return data


def load_weights(module: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy `state` into `module`, cast to the module's dtypes; all names and shapes must agree.

    Raises PhenakiError that opens with `where` and names the first that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    other = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": other}
    if any(faults.values()):
        said = "; ".join(f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names)
        raise PhenakiError(f"{where}: these weights do not fit {type(module).__name__} and its configuration: {said}.")
    module.load_state_dict(dict(state))


def load_component(folder: str | Path, room: str) -> nn.Module:
    """The component in `folder`, in evaluation mode on the CPU, of a room: "tokenizer", "generator", "text", "critic".

    The room's `REGISTRY` gives the configuration's and the model's class for each type. Raises PhenakiError as
    `read_component`, `from_dict` and `load_weights` do, and for a type that the room does not know.
    """
    kind, config = read_config(folder)
    registry = _registry(room)
    where = Path(folder) / CONFIG
    if kind not in registry:
        nearest = did_you_mean(kind, registry)
        raise PhenakiError(f"'{where}' has the type '{kind}'; known are {', '.join(registry)}.{nearest}")
    config_class, model_class = registry[kind]
    module = model_class(from_dict(config_class, config, where=f"'{where}'"))
    if _own_state(module):
        path = Path(folder) / WEIGHTS
        load_weights(module, _read_weights(path), f"'{path}'")
    return module.eval()


def kind_of(module: nn.Module, room: str) -> str:
    """The type under which the class of `module` stands in the room's REGISTRY."""
    registry = _registry(room)
    for kind, (_, model_class) in registry.items():
        if type(module) is model_class:
            return kind
    known = ", ".join(model_class.__name__ for _, model_class in registry.values())
    raise PhenakiError(f"A {type(module).__name__} cannot be saved: phenaki.{_MODULES.get(room, room)} knows {known}.")


def room_of(folder: str | Path) -> str:
    """The room whose REGISTRY knows the type of the component in `folder`."""
    kind, _ = read_config(folder)
    rooms = (*ROOMS, CRITIC)
    for room in rooms:
        if kind in _registry(room):
            return room
    known = [name for room in rooms for name in _registry(room)]
    where = Path(folder) / CONFIG
    raise PhenakiError(f"'{where}' has the type '{kind}'; there are {', '.join(known)}.{did_you_mean(kind, known)}")


def fingerprint(component: nn.Module | str | Path) -> str:
    """SHA-256 over configuration and weights of a module with a `.config`, or of a component's folder: 64 hex digits.

    Floating weights count by their value as float32, so a component saved in float16 and what is loaded from it agree.
    Of the configuration count the values that are not the defaults, so a field that comes new with a default is none.
    Weights that lie elsewhere count as they are in memory, wherever it was that they came from.
    """
    if isinstance(component, nn.Module):
        config, state = component.config, component.state_dict()
    else:
        kind, values, state = read_component(component)
        config_class, _ = _registry(room_of(component))[kind]
        config = from_dict(config_class, values, where=f"'{Path(component) / CONFIG}'")
    settings = chosen(config)
    if elsewhere := isinstance(component, WeightsElsewhere):
        settings = {key: value for key, value in settings.items() if key not in ("name", "revision", "dtype")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if tensor.is_floating_point() and not elsewhere:
            tensor = tensor.float()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def model_names() -> list[str]:
    """Names of the models in the package."""
    return sorted(file.parent.name for file in ZOO.glob(f"*/{MODEL}"))


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model: a folder itself, a model in the package by name, or `owner/name` of the Hugging Face hub.

    What is in the hub's local cache is not loaded again, and is used as it is when the hub cannot be reached. Raises
    PhenakiError that names the models there are.
    """
    name = str(name_or_folder)
    if os.path.isdir(name):
        return Path(name)
    if os.path.exists(name):
        raise PhenakiError(f"'{name}' is a file; name the folder of a model, or one of: {', '.join(model_names())}.")
    if name in model_names():
        return ZOO / name
    if isinstance(name_or_folder, str) and re.fullmatch(_HUB_NAME, name):
        return _from_hub(name)
    raise PhenakiError(
        f"There is no model or folder '{name}'.{did_you_mean(name, model_names())} "
        f"Models in the package: {', '.join(model_names()) or 'none'}. "
        "Else name a folder, or owner/name of the Hugging Face hub."
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # quick starts: only who needs the hub imports it
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except GatedRepoError as error:
        raise PhenakiError(f"'{name}' is on the Hugging Face hub but asks for access: run `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        reason = "and the Hugging Face hub knows none of that name, or shows it only after `hf auth login`"
        raise PhenakiError(f"There is no folder '{name}', {reason}.") from error
    except Exception as error:  # what the network throws depends on the hub's HTTP client
        raise PhenakiError(
            f"There is no folder '{name}', it is not in the local cache of the Hugging Face hub, and the hub cannot be "
            f"reached ({type(error).__name__}). On a machine that reaches it, run `hf download {name} --local-dir DIR` "
            f"and name DIR here."
        ) from error


def local_folder(name: str, revision: str = "") -> Path:
    """A folder, or what the user's cache of the Hugging Face hub holds of `owner/name`. Nothing is downloaded.

    Raises PhenakiError that says what to download, and where to put it.
    """
    if os.path.isdir(name):
        return Path(name)
    if not re.fullmatch(_HUB_NAME, name):
        raise PhenakiError(
            f"there is no folder '{name}': name one that is there, or owner/name of the Hugging Face hub"
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError as error:
        wanted = f"{name} --revision {revision}" if revision else name
        raise PhenakiError(
            f"there is no folder '{name}' here, the files of the model of that name are not on this machine, and they "
            f"are not downloaded unasked: `hf download {wanted}` puts them into the cache, {constants.HF_HUB_CACHE}; "
            f"or run `hf download {wanted} --local-dir DIR` on any machine, copy DIR here and name it in place of it"
        ) from error


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    """What of a component's state its own folder holds."""
    return {} if isinstance(module, WeightsElsewhere) else module.state_dict()


def _registry(room: str) -> dict[str, tuple[type, type[nn.Module]]]:
    own = importlib.import_module(f"phenaki.{_MODULES.get(room, room)}").REGISTRY
    return own | importlib.import_module(f"phenaki.{COMPAT}").REGISTRY.get(room, {})


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    def stored(tensor: Tensor) -> Tensor:
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return (
            tensor.detach().to("cpu", wanted, copy=True).contiguous()
        )  # tied weights share memory, the format must not

    return {name: stored(tensor) for name, tensor in state.items()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PhenakiError(f"'{path.parent}' holds no {path.name}: the weights of this model are missing.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise PhenakiError(
            f"'{path}' ({size:,} bytes) is no whole safetensors file: {error}. Copy or download it again."
        ) from error


def _first(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
