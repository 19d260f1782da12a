"""Arguments of public functions, held against their annotations: a wrong type is a sentence, not an error of torch."""

from __future__ import annotations

import inspect
import numbers
import operator
import os
import sys
import types
from collections.abc import Callable, Container, Iterable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from phenaki.core.config import quoted
from phenaki.core.errors import PhenakiError
from phenaki.core.files import is_path

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "None",
    np.ndarray: "an array",
}
_WORDS_OF_TORCH = {"Tensor": "a tensor", "dtype": "a dtype", "device": "a device"}


def check_types(function: Callable[Inputs, Result], skip: Container[str] = ()) -> Callable[Inputs, Result]:
    """The function, which raises PhenakiError for an argument whose type is not that of its annotation.

    Numbers of numpy and torch count as numbers, arrays and tensors as sequences. Items are not looked at, nor are the
    arguments that `**` gathers, and those that it checks itself (`skip`).
    """
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        hints = _hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            kind = signature.parameters[name].kind
            if (
                kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
                or name in skip
                or name not in hints
            ):
                continue
            check_tensor(name, value)
            if not _fits(value, hints[name]):
                raise PhenakiError(f"{name} {_brief(value)}: pass {_describe(hints[name])}")
        return function(*args, **kwargs)

    return checked


def as_int(value: Any, name: str) -> int:
    """An int, of numpy or torch too. Raises PhenakiError for anything else."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise PhenakiError(f"{name} {value!r}: give a whole number") from error


def as_float(value: Any, name: str) -> float:
    """A float, of numpy or torch too. Raises PhenakiError for anything else."""
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PhenakiError(f"{name} {quoted(value)}: give a number") from error


def _is_tensor(value: Any) -> bool:
    """Without importing torch, which the command line does late: before that, nothing is a tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _brief(value: Any) -> str:
    if _is_array(value):
        return f"of type {type(value).__name__}, {value.dtype} {tuple(value.shape)}"
    return quoted(value)


def check_tensor(name: str, value: Any) -> None:
    """Raise PhenakiError for a tensor without values at hand: on the meta device, or sparse."""
    if _is_tensor(value) and (value.is_meta or value.layout != sys.modules["torch"].strided):
        kind = "on the meta device" if value.is_meta else "sparse"
        raise PhenakiError(f"{name} is a tensor that is {kind}: pass one with all its values (.to_dense())")


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function)


def _members(hint: Any) -> tuple[Any, ...]:
    """The kinds of a union, or the only one."""
    if alias := getattr(get_origin(hint) or hint, "__value__", None):  # numpy's NDArray is an alias from 2.5 on
        return _members(alias[get_args(hint)] if get_args(hint) else alias)
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for each in get_args(hint) for member in _members(each))
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    members = _members(hint)
    if isinstance(value, (str, os.PathLike)) and any(_is_path(member) for member in members):
        return is_path(value)
    return any(_is_of(value, member) for member in members)


def _is_path(hint: Any) -> bool:
    return hint is Path or (get_origin(hint) or hint) is os.PathLike


def _is_of(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin is Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in get_args(hint))
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint is int:
        return not isinstance(value, bool) and _is_index(value)
    if hint is float:
        single = (isinstance(value, np.generic) or _is_array(value)) and value.ndim == 0
        return single or (isinstance(value, numbers.Real) and not isinstance(value, bool))
    if hint is str:
        return isinstance(value, str)
    if origin in (Sequence, list, tuple):
        return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) or _has_items(value)
    if origin is Callable:
        return callable(value)
    if origin is Iterable:
        if _is_array(value):
            return _has_items(value)
        return isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    return not isinstance(origin, type) or isinstance(value, origin)


def _has_items(value: Any) -> bool:
    return _is_array(value) and value.ndim > 0


def _is_index(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _describe(hint: Any) -> str:
    kinds = []
    for member in _members(hint):
        origin = get_origin(member) or member
        if origin is Literal:
            kinds += [repr(allowed) for allowed in get_args(member)]
        elif _is_path(member):
            kinds.append("a path")
        elif origin in (Sequence, list, tuple):
            kinds.append("a list")
        elif origin is Callable:
            kinds.append("a function")
        else:
            name = getattr(origin, "__name__", str(member))
            of_torch = _WORDS_OF_TORCH.get(name, name) if getattr(origin, "__module__", "") == "torch" else name
            kinds.append(_WORDS.get(member, of_torch))
    *first, last = dict.fromkeys(kinds)
    return f"{', '.join(first)} or {last}" if first else last
