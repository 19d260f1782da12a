"""The runs in a folder and their state. Needs no torch."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object, write_atomic
from phenaki.core.reading import read_regular

State = Literal["running", "stopped", "finished", "failed"]
Curve = list[tuple[int, float]]

STATE, RECIPE, METRICS = "state.json", "recipe.json", "metrics.jsonl"
_SILENT = 1800.0  # seconds without a record after which a run on another machine counts as dead
_STATE_KEYS = {"state": str, "sentence": str, "host": str, "pid": int, "time": float}
_LARGEST = 2**24  # bytes of a recipe or a state
_GONE = "it ended without a message: killed, or its machine went down"
# Evaluation metrics (test/psnr) whose best value is shown.
_BEST = {"psnr": max, "fulfilled": max, "loss_rest": min, "loss_first": min}


def write_state(folder: Path, state: State, sentence: str = "") -> None:
    """Write the state of this process's run in `folder`; `sentence`: why it failed."""
    known = {"state": state, "sentence": sentence, "host": socket.gethostname(), "pid": os.getpid()}
    with write_atomic(folder / STATE, "w") as file:
        json.dump(known | {"time": round(time.time(), 1)}, file)


@dataclass(frozen=True)
class Summary:
    """A run, read from its folder. step: the last recorded one, of `steps`. curves: of each metric. best: values of the
    metrics in `_BEST`, with their step. time: of the last record, in seconds since 1970."""

    folder: Path
    stage: str
    state: State
    sentence: str
    step: int
    steps: int
    time: float
    curves: dict[str, Curve] = field(repr=False)
    alarms: list[str] = field(repr=False)

    @property
    def best(self) -> dict[str, tuple[float, int]]:
        found = {}
        for name, curve in self.curves.items():
            group, _, metric = name.rpartition("/")
            if group in ("test", "seen") and metric in _BEST:
                step, value = _BEST[metric](curve, key=lambda point: point[1])
                found[name] = value, step
        return found

    @property
    def pictures(self) -> list[Path]:
        """The newest of each kind: PNG files, and the mp4 files of the same clips."""
        newest: dict[tuple[str, str], Path] = {}
        for ending in ("*_*.png", "*_*.mp4"):
            for file in sorted(self.folder.glob(ending)):
                kind, _, step = file.stem.rpartition("_")
                if step.isdigit():
                    newest[kind, file.suffix] = file
        return list(newest.values())


def find_runs(folder: Path) -> list[Summary]:
    """All runs in a folder, itself or anywhere below, by path. Raises PhenakiError if there is none."""
    if not folder.is_dir():
        raise PhenakiError(f"there is no folder '{folder}': name one that holds runs, as --out of `phenaki train` did")
    found = [summary for path in sorted(folder.rglob(RECIPE)) if (summary := _read(path.parent))]
    if not found:
        raise PhenakiError(
            f"'{folder}' holds no run: a run's folder has a {RECIPE} and a {METRICS}, as `phenaki train` writes them"
        )
    return found


def _read(folder: Path) -> Summary | None:
    """None if recipe.json is something else; damaged records are left out."""
    recipe = _json(folder / RECIPE)
    section = recipe.get("run")
    steps = section.get("steps") if isinstance(section, dict) else None
    if not isinstance(steps, int):
        return None
    known = _json(folder / STATE)
    if any(not isinstance(known.get(key), kind) for key, kind in _STATE_KEYS.items()):
        known = {}  # of an older version, or damaged
    curves, alarms, step, last = _records(folder / METRICS)
    last = max(last, known.get("time", 0.0))
    state, sentence = _state(known, last, step, steps)
    stage = "generator" if "generator" in recipe else "tokenizer" if "tokenizer" in recipe else "critic"
    return Summary(folder, stage, state, sentence, step, steps, last, curves, alarms)


def _json(path: Path) -> dict[str, Any]:
    try:
        return parse_json_object(read_regular(path, _LARGEST), f"'{path}'")
    except (OSError, PhenakiError):
        return {}


def read_record(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for an incomplete one."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _number(value: Any) -> bool:
    """Whether it is one that a float can hold; NaN and infinity are losses too."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1e300)


def _records(path: Path) -> tuple[dict[str, Curve], list[str], int, float]:
    """Curves, alarms, the last step and its time."""
    curves: dict[str, Curve] = {}
    alarms, step, last = [], 0, 0.0
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    for record in filter(None, map(read_record, text.splitlines(keepends=True))):
        step, time_of = record.pop("step"), record.pop("time", last)
        last = float(time_of) if _number(time_of) and math.isfinite(time_of) else last
        if "alarm" in record:
            alarms.append(f"step {step}: {record['alarm']}: {record.get('sentence', '')}")
            continue
        for name, value in record.items():
            if _number(value):
                curves.setdefault(name, []).append((step, value))
    return curves, alarms, step, last


def _state(known: Mapping[str, Any], last: float, step: int, steps: int) -> tuple[State, str]:
    """The state that the run wrote last, unless it has died since; older versions wrote none."""
    if not known:
        return ("finished" if step >= steps else "stopped"), ""
    if known["state"] == "running" and not _alive(known, last):
        return "failed", _GONE
    return known["state"], known["sentence"]


def _alive(known: Mapping[str, Any], last: float) -> bool:
    if known["host"] != socket.gethostname():
        return time.time() - last < _SILENT
    try:
        os.kill(known["pid"], 0)
    except (ProcessLookupError, OverflowError):  # no process has so large a number
        return False
    except PermissionError:  # of another user, but alive
        pass
    return True
