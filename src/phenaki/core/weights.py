"""Weights: reading files without running code from them, and copying tensors into a module."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError, shortened


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file or a `torch.save` file, on the CPU; keys of nested dictionaries become a.b.c.

    Raises PhenakiError for an unreadable file, and for a pickle that would run code, which is not run.
    """
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.iterdir() if file.is_file())) or "no files"
        raise PhenakiError(f"'{path}' is a folder: pass the weights file in it. It contains {inside}")
    if not path.is_file():
        raise PhenakiError(f"there is no checkpoint '{path}'")
    content = read_safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    tensors = dict(_flat(content))
    if not tensors:
        raise PhenakiError(f"'{path}' holds a {type(content).__name__} without tensors: save a state_dict()")
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises PhenakiError for a file that is truncated or of another format."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _incomplete(path, error) from error


def _incomplete(path: Path, error: Exception) -> PhenakiError:
    size = path.stat().st_size
    return PhenakiError(
        f"'{path}' ({size:,} bytes) is not a complete safetensors file: {error}. Copy or download it again."
    )


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a .safetensors file, without reading the tensors. Raises as `read_safetensors`."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _incomplete(path, error) from error


def load_weights(module: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy `state` into `module`, cast to the module's dtypes; all names, shapes and kinds of type must agree.

    Raises PhenakiError that begins with `where` and names the first missing, unexpected and misshapen tensors.
    """
    check_fits(type(module), module.state_dict(), state, where)
    module.load_state_dict(dict(state))


def check_fits(
    network: type[nn.Module], own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str | Path
) -> None:
    """Raise PhenakiError unless `state` has the names, shapes and kinds of type of `own`, maybe on the meta device."""
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of the wrong shape": [
            f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
        "of the wrong type": [
            f"{name} is {state[name].dtype}, expected {own[name].dtype}"
            for name in own
            if name in state and state[name].is_floating_point() != own[name].is_floating_point()
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what} ({shortened(names)})" for what, names in problems.items() if names)
        raise PhenakiError(f"{where}: the weights do not fit {network.__name__} and its configuration: {listed}.")


def _unpickle(path: Path) -> Any:
    path.open("rb").close()  # raises system errors, which below could also mean a truncated file
    try:
        with warnings.catch_warnings(action="ignore"):  # about unusual pickles; dangerous ones raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on where a broken file breaks
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise PhenakiError(
                f"'{path}' holds more than tensors: loading it would run {found[1]}, so it was not loaded. "
                "Save only the network's state_dict(), preferably as .safetensors"
            ) from error
        raise PhenakiError(
            f"'{path}' ({path.stat().st_size:,} bytes) is not a complete torch.save file; no code in it was run. "
            "Copy or download it again"
        ) from error


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
