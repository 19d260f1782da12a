"""Configurations: frozen dataclasses with typed and bounded fields, read from plain data and changed by `key=value`."""

from __future__ import annotations

import dataclasses
import math
import operator
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from phenaki.core.errors import PhenakiError, did_you_mean

Config = TypeVar("Config")

_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


_INTEGERS = range(-(2**63), 2**63)  # what tensors and random seeds hold
_LONGEST = 100  # characters of a value that an error quotes
_MISSING = "???"  # OmegaConf's word for a value to come
_HOLDS = {"above": operator.gt, "at least": operator.ge, "below": operator.lt, "at most": operator.le}


class OutOfBoundsError(PhenakiError):
    """A field's value is outside of its bounds; the sentence begins with the field's name."""


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of a `configclass` whose numbers, also those in a tuple, must lie within these bounds."""
    limits = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    bounds = {word: limit for word, limit in limits.items() if limit is not None}
    return dataclasses.field(default=default, metadata={"bounds": bounds})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, bounded))
def configclass(cls: type[Config]) -> type[Config]:
    """`dataclass(frozen=True)` whose construction checks the bounds of its fields, then runs its `__post_init__`.

    Every number must be finite.
    """
    own_checks = getattr(cls, "__post_init__", lambda self: None)

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            _check_bounds(field.name, getattr(self, field.name), field.metadata.get("bounds", {}))
        own_checks(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def from_dict(cls: type[Config], data: Mapping[str, Any], where: str = "") -> Config:
    """The dataclass `cls` from plain data, with every key, type and bound checked.

    `where`, such as a file, begins each error. Nested dataclasses, tuples, lists, dictionaries, Literal, Path and
    unions are supported (in a union of dataclasses, the one that has most of the keys is built); lists become tuples
    where the field is one, and integral floats (1e4) become ints. Raises PhenakiError for unknown keys (naming the
    nearest), missing keys, wrong types, and values out of bounds or refused by `__post_init__`.
    """
    try:
        return _build(cls, data, "")
    except PhenakiError as error:
        if not where:
            raise
        raise PhenakiError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as JSON-serialisable data, from which `from_dict` builds an equal one."""
    return {name: _plain(getattr(config, name)) for name in _fields(type(config))}


def non_default(config: Any) -> dict[str, Any]:
    """`to_dict` without fields at their defaults, so that adding a field with a default changes nothing."""
    values = {}
    for name, field in _fields(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            values[name] = non_default(value)
        elif field.default_factory is not dataclasses.MISSING:
            values |= {name: _plain(value)} if value != field.default_factory() else {}
        elif value != field.default:
            values[name] = _plain(value)
    return values


def changes(before: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Differences of plain data: the path, such as "data.sources[0].uri", and both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, values in enumerate(zip(before, now, strict=True)):
            yield from changes(*values, f"{name}[{index}]")
    elif before != now:
        yield name, before, now


def override(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of `config` with overrides such as `["optimizer.lr=1e-3", "grid=[6,8,8]"]`; values are YAML.

    Nested dataclasses keep their class, which may be one that the annotations do not name, unless a key belongs to
    another class of an annotated union: `generator.window=6` makes the generator causal. Raises PhenakiError for
    anything but `key=value`, and as `from_dict` does.
    """
    merged = OmegaConf.create(to_dict(config))
    for change in overrides:
        key, equals, _ = change.partition("=")
        if not equals or not key.strip():
            raise PhenakiError(
                f"{quoted(change)} is not an override. Write key=value without spaces, as in optimizer.lr=1e-3."
            )
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([change]))
        except Exception as error:  # what OmegaConf raises depends on where it stumbles
            raise PhenakiError(f"The override {quoted(change)} cannot be read: {_reason(error)}") from error
        if _MISSING in change[len(key) :]:  # OmegaConf would keep the old value
            raise PhenakiError(f"The override {quoted(change)} has no value: write one in place of {_MISSING}")
    return _build(type(config), OmegaConf.to_container(merged), "", config)


def _reason(error: Exception) -> str:
    """Why an override cannot be read."""
    if isinstance(error, RecursionError):
        return "it is nested too deep."
    if isinstance(error, (OmegaConfBaseException, yaml.YAMLError, ValueError)):
        return f"{str(error).splitlines()[0].rstrip('.')}. Quote the value?"
    return "a list replaces a list as a whole, and keys a section: lengths=[5,11], optimizer.lr=1e-3."


def _check_bounds(name: str, value: Any, bounds: Mapping[str, float]) -> None:
    each = isinstance(value, (tuple, list))
    for number in value if each else (value,):
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        finite = isinstance(number, int) or math.isfinite(number)
        if not finite or not all(_HOLDS[word](number, limit) for word, limit in bounds.items()):
            wanted = " and ".join(["finite"] * (not finite) + [f"{word} {limit}" for word, limit in bounds.items()])
            raise OutOfBoundsError(f"{name} {value} must be {wanted}{', each' if each else ''}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _has(values: Any, key: Any) -> bool:
    return isinstance(values, Mapping) and key in values


def _build(cls: type[Config], data: Any, at: str, like: Config | None = None) -> Config:
    """`like`: a configuration whose nested dataclasses have the classes to build."""
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise _wrong(at or cls.__name__, f"a mapping with keys of {cls.__name__}", data)
    fields = _fields(cls)
    inside = f"{at}." if at else ""
    for key in data:
        if key not in fields:
            inner = [f"'{inside}{name}.{key}'" for name, values in data.items() if _has(values, key)]
            nearest = f" Did you mean {' or '.join(inner)}?" if inner else did_you_mean(str(key), fields)
            raise PhenakiError(
                f"Unknown key {quoted(f'{inside}{key}')}.{nearest} {cls.__name__} has: {', '.join(fields)}."
            )
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise PhenakiError(f"The key '{inside}{name}' of {cls.__name__} is missing.")
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        nested = getattr(like, key, None)
        if dataclasses.is_dataclass(nested):
            kind = _nested_class(type(nested), hints[key], value)
            values[key] = _build(kind, value, f"{inside}{key}", nested)
        else:
            values[key] = _convert(hints[key], value, f"{inside}{key}")
    try:
        return cls(**values)
    except OutOfBoundsError as error:
        raise PhenakiError(f"{inside}{error}") from error


def _nested_class(current: type, annotated: Any, value: Any) -> type:
    """The current class of a nested configuration, unless another one of an annotated union alone has all keys."""
    classes = [current, *filter(dataclasses.is_dataclass, get_args(annotated))]
    fits = (each for each in classes if isinstance(value, Mapping) and value.keys() <= _fields(each).keys())
    return next(fits, current)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _convert(kind: Any, value: Any, at: str) -> Any:
    """`value` converted to the annotation `kind`, or a PhenakiError that names the key `at`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(kind, value, at)
    if origin is Literal:
        if any(type(value) is type(allowed) and value == allowed for allowed in arguments):
            return value
        nearest = did_you_mean(str(value), map(str, arguments))
        raise PhenakiError(f"{at} must be one of {', '.join(map(repr, arguments))}, not {quoted(value)}.{nearest}")
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, at)
    if (origin or kind) in (tuple, list):
        return _convert_sequence(origin or kind, arguments, value, at)
    if (origin or kind) is dict:
        if not isinstance(value, Mapping):
            raise _wrong(at, "a mapping", value)
        key_kind, item_kind = arguments or (Any, Any)
        return {
            _convert(key_kind, key, f"a key of {at}"): _convert(item_kind, item, f"{at}.{key}")
            for key, item in value.items()
        }
    if kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _convert_number(kind, value, at)
    if kind in (str, Path) and isinstance(value, str):
        if not is_unicode(value):
            raise PhenakiError(f"{at} {quoted(value)} is not valid Unicode text.")
        return kind(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise _wrong(at, _name(kind), value)


def _convert_number(kind: type, value: float, at: str) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise PhenakiError(f"{at} {value} must be finite")
    if kind is float and abs(value) <= sys.float_info.max:
        return float(value)
    if int(value) == value and int(value) in _INTEGERS and kind is int:
        return int(value)
    raise _wrong(at, _name(kind) if int(value) in _INTEGERS else f"{_name(kind)} of at most 2^63 - 1", value)


def is_unicode(text: str) -> bool:
    """Whether it has no lone surrogates, which JSON can spell and no file or terminal takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def quoted(value: Any) -> str:
    """`repr`, of long values only the beginning."""
    text = ascii(value) if isinstance(value, str) and not is_unicode(value) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _convert_union(kind: Any, value: Any, at: str) -> Any:
    members = get_args(kind)
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return _convert(members[0], value, at)
    if isinstance(value, Mapping) and all(map(dataclasses.is_dataclass, members)):
        return _build(max(members, key=lambda member: len(value.keys() & _fields(member).keys())), value, at)
    for member in sorted(members, key=lambda member: type(value) is not member):  # 3 of `float | int` stays an int
        try:
            return _convert(member, value, at)
        except PhenakiError:
            continue
    raise _wrong(at, _name(kind), value)


def _convert_sequence(kind: type, arguments: tuple[Any, ...], value: Any, at: str) -> Any:
    if not isinstance(value, (tuple, list)):
        raise _wrong(at, "a list", value)
    if kind is list or not arguments or arguments[-1] is Ellipsis:
        kinds = (arguments[0] if arguments else Any,) * len(value)
    elif len(arguments) == len(value):
        kinds = arguments
    else:
        raise PhenakiError(f"{at} must have {len(arguments)} values, not {len(value)}: {quoted(list(value))}.")
    return kind(
        _convert(item_kind, item, f"{at}[{i}]") for i, (item_kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _name(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_name(member) for member in get_args(kind))
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _wrong(at: str, wanted: str, value: Any) -> PhenakiError:
    found = "null" if value is None else f"{quoted(value)} ({_WORDS.get(type(value), type(value).__name__)})"
    return PhenakiError(f"{at} must be {wanted}, not {found}.")
