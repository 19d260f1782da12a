"""Mutations of bytes, of JSON and of values, each a function of a seeded random generator."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 65, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        "a",
        "1",
        "NaN",
        "\0",
        "\ud800",
        "../../outside",
        "/dev/zero",
        "\u202e\u0301",
        "☃" * 50,
        "a" * 10_000,
        "${x}",
    ),
    *([], [[]], [None], [0, 0], [-1], [8, 8], {}, {"a": 1}, {"": None}),
)
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def mutate_bytes(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """The data with one to a few dozen changes, or spliced with others, or cut."""
    for _ in range(rng.choice((1, 1, 1, 2, 4, 30))):
        data = _mutate_once(data, rng, others)
    return data


def _mutate_once(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    if not data:
        return rng.randbytes(rng.choice((0, 1, 16)))
    near = rng.choice((len(data), min(len(data), 200)))  # headers matter most
    at, length = rng.randrange(near), rng.choice((1, 2, 4, 16, 100, len(data) // 3 + 1))
    end = min(len(data), at + length)
    match rng.randrange(11):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]) + data[at + 1 :]
        case 2:
            return data[:at] + rng.randbytes(end - at) + data[end:]
        case 3:
            return data[:at] + data[end:]
        case 4:
            return data[:end] + data[at:]
        case 5:
            return data[:at]
        case 6:
            return data[:at] + bytes(end - at) + data[end:]
        case 7:
            form = rng.choice(("<Q", ">Q", "<I", ">I", "<H", ">H"))
            size = struct.calcsize(form)
            return data[:at] + struct.pack(form, rng.choice(_NUMBERS) % 256**size) + data[at + size :]
        case 8:
            return data[:at] + str(rng.choice(_NUMBERS)).encode() + data[at:]
        case 9:
            return data + rng.choice((b"\0" * 512, rng.randbytes(40), data[:at]))
        case _:
            other = rng.choice(others) if others else data[::-1]
            return data[:at] + other[rng.randrange(len(other) + 1) :]


def mutate_json(value: Any, rng: Random) -> Any:
    """Plain data with a few odd values, missing, unknown or misspelt keys, or absurd nesting."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = _mutate_json_once(value, rng)
    return value


def _mutate_json_once(value: Any, rng: Random) -> Any:
    inside = isinstance(value, (dict, list)) and len(value) > 0
    if not inside or rng.random() < 0.1:
        return _odd(value, rng)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    match rng.randrange(8):
        case 0 if isinstance(value, dict):
            value[f"{key}x"] = value.pop(key)
        case 1:
            del value[key]
        case 2 if isinstance(value, dict):
            value[rng.choice(("", "a", "__class__", str(key).upper(), "\ud800"))] = copy.deepcopy(rng.choice(ODD))
        case 3 if isinstance(value, list) and len(value) < 10:  # lists of lists would grow without bounds
            value *= 2 if any(isinstance(item, (list, dict)) for item in value) else rng.choice((2, 50))
        case _:
            value[key] = _mutate_json_once(value[key], rng)
    return value


def _odd(value: Any, rng: Random) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.3:
        try:
            return rng.choice((-value, value + 1, value * 2, value * 1_000_003, value / 2, str(value), [value]))
        except OverflowError:
            pass
    if rng.random() < 0.03:
        for _ in range(rng.choice((50, 150, 900))):
            value = [value]
        return value
    return copy.deepcopy(rng.choice(ODD))


def to_text(value: Any, rng: Random) -> bytes:
    """JSON of any plain data, with NaN and lone surrogates as Python and others spell them."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def mutate_file(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """A file of JSON, of JSON lines, of tensors or of anything, by its structure or by its bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng, others)
    if data[:1] in b"{[" and data[:1]:
        lines = data.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        for number in (None, at):  # the whole file, or one line
            try:
                parsed = json.loads(data if number is None else lines[at])
            except ValueError:
                continue
            changed = to_text(mutate_json(parsed, rng), rng)
            return changed if number is None else b"".join([*lines[:at], changed + b"\n", *lines[at + 1 :]])
    if data[8:10] == b'{"':  # safetensors: 8 bytes of length, then a header
        size = int.from_bytes(data[:8], "little")
        header = to_text(mutate_json(json.loads(data[8 : 8 + size]), rng), rng)
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return mutate_bytes(data, rng, others)
