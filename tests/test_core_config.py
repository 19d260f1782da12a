"""Configurations survive conversion to plain data and back, and refuse invalid values with a message."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from phenaki.core.config import bounded, changes, configclass, from_dict, override, to_dict
from phenaki.core.errors import PhenakiError


@dataclass(frozen=True)
class Optimizer:
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise PhenakiError(f"The learning rate must be above 0, not {self.lr}.")


@dataclass(frozen=True)
class Run:
    steps: int
    name: str = "run"
    levels: tuple[int, ...] = (8, 8)
    clip: float | None = 1.0
    ema: bool = True
    out: Path | None = None
    mix: dict[str, float] = field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    second: Optimizer | None = None


FULL = Run(
    7, "a", (4, 5, 6), None, False, Path("x/y"), {"shapes": 0.5}, Optimizer(1e-3), Optimizer(schedule="constant")
)


@pytest.mark.parametrize("config", [Run(1), FULL])
def test_round_trip_through_json(config: Run) -> None:
    assert from_dict(Run, json.loads(json.dumps(to_dict(config)))) == config


def test_overrides_are_typed_and_do_not_change_the_original() -> None:
    changed = override(
        Run(1),
        ["optimizer.lr=1e-3", "steps=2e4", "levels=[3,4,5]", "clip=null", "ema=false", "mix.clips=1", "out=a/b"]
        + ["second.betas=[0.5,0.9]", "name=x=y"],
    )
    assert changed.optimizer.lr == 1e-3 and changed.optimizer.betas == (0.9, 0.99)
    assert changed.steps == 20_000 and type(changed.steps) is int
    assert changed.levels == (3, 4, 5) and changed.clip is None and changed.ema is False
    assert changed.mix == {"clips": 1.0} and type(changed.mix["clips"]) is float
    assert changed.second == Optimizer(betas=(0.5, 0.9)) and changed.out == Path("a/b") and changed.name == "x=y"
    assert override(FULL, []) == FULL and override(FULL, ["steps=8"]) != FULL


def test_overrides_keep_the_class_of_a_nested_config() -> None:
    """Also one that the annotation does not name, as that of a registered component."""

    @dataclass(frozen=True)
    class Momentum:
        lr: float = 0.1
        nesterov: bool = False

    changed = override(Run(1, optimizer=Momentum()), ["steps=2", "optimizer.nesterov=true"])
    assert changed == Run(2, optimizer=Momentum(nesterov=True))
    with pytest.raises(PhenakiError, match="betas"):
        override(Run(1, optimizer=Momentum()), ["optimizer.betas=[0.5,0.9]"])


def test_later_override_wins() -> None:
    assert override(Run(1), ["steps=2", "steps=3"]).steps == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.rl=1", r"'optimizer\.rl'.*Did you mean 'lr'"),
        ("nonsense=1", r"Unknown key 'nonsense'.*steps, name"),
        ("steps", "key=value"),
        ("=3", "key=value"),
        ("steps=", "steps must be an integer"),
        ("steps=1.5", r"steps must be an integer, not 1\.5"),
        ("steps=true", "steps must be an integer"),
        ("ema=1", "ema must be true or false, not 1"),
        ("name=3", "name must be text, not 3"),
        ("optimizer=fast", "optimizer must be a mapping with keys of Optimizer"),
        ("optimizer.lr=fast", r"optimizer\.lr must be a number, not 'fast'"),
        ("optimizer.betas=[0.1]", r"optimizer\.betas must have 2 values, not 1"),
        ("levels=[1,a]", r"levels\[1\] must be an integer, not 'a'"),
        ("levels=3", "levels must be a list"),
        ("mix.clips=much", r"mix\.clips must be a number"),
        ("optimizer.schedule=cosin", "'cosine', 'constant', not 'cosin'. Did you mean 'cosine'"),
        ("optimizer.lr=-1", r"^The learning rate must be above 0, not -1\.0\.$"),
        ("name=[", "cannot be read"),
        ("name=${", "cannot be read"),
    ],
)
def test_a_bad_override_is_a_sentence(change: str, message: str) -> None:
    with pytest.raises(PhenakiError, match=message):
        override(Run(1), [change])


def test_missing_key_and_source_are_named() -> None:
    with pytest.raises(PhenakiError, match=r"^model/config\.json: The key 'steps' of Run is missing"):
        from_dict(Run, {"name": "a"}, where="model/config.json")
    with pytest.raises(PhenakiError, match="Run must be a mapping with keys of Run, not"):
        from_dict(Run, [1])  # type: ignore[arg-type]


def test_own_checks_keep_their_message_after_the_source() -> None:
    with pytest.raises(PhenakiError, match=r"^here: The learning rate must be above 0, not 0\.0\.$"):
        from_dict(Run, {"steps": 1, "optimizer": {"lr": 0}}, where="here")


@configclass
class Bounded:
    lr: float | None = bounded(1e-4, above=0)
    dropout: float = bounded(0.0, at_least=0, below=1)
    betas: tuple[float, float] = bounded((0.9, 0.99), at_least=0, at_most=1)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed == 13:
            raise PhenakiError("13 brings bad luck")


@configclass
class MoreBounded(Bounded):
    steps: int = bounded(1, at_least=1)


@configclass
class Outer:
    inner: Bounded = Bounded()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0}, r"lr 0\.0 must be above 0"),
        ({"dropout": 1.0}, r"dropout 1\.0 must be at least 0 and below 1"),
        ({"betas": [0.9, 1.5]}, r"betas \(0\.9, 1\.5\) must be at least 0 and at most 1, each"),
        ({"seed": 13}, "13 brings bad luck"),
    ],
)
def test_bounds_hold_however_a_configuration_is_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PhenakiError, match=f"^{message}$"):
        from_dict(Bounded, values)
    nested = message if message.startswith("13") else rf"inner\.{message}"
    with pytest.raises(PhenakiError, match=f"^{nested}$"):
        from_dict(Outer, {"inner": values})
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for kind in (Bounded, MoreBounded):
        with pytest.raises(PhenakiError, match=message.replace(r"0\.0", "0")):
            kind(**values)


@dataclass(frozen=True)
class Plain:
    fps: float = 8.0
    mix: dict[str, float] = field(default_factory=dict)
    steps: int = 1
    name: str = ""


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite_however_deep_they_lie(number: float) -> None:
    for config in (Plain, Bounded):
        name = "fps" if config is Plain else "lr"
        with pytest.raises(PhenakiError, match=f"^{name} {number} must be finite$"):
            from_dict(config, {name: number})
    with pytest.raises(PhenakiError, match="mix.a .* must be finite"):
        from_dict(Plain, {"mix": {"a": number}})
    with pytest.raises(PhenakiError, match=f"lr {number} must be finite and above 0"):
        Bounded(lr=number)


@pytest.mark.parametrize("values", [{"fps": 10**400}, {"steps": 2**63}, {"steps": 1e300}, {"name": "\ud800"}])
def test_what_tensors_and_files_cannot_hold_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(PhenakiError, match="must be|not valid Unicode") as caught:
        from_dict(Plain, values)
    assert len(str(caught.value)) < 200
    str(caught.value).encode()


@pytest.mark.parametrize(
    "change",
    ["levels=3", "optimizer=[]", "[=1", "mix=[]", "levels[0]=1", "levels={0: 1}", "steps=" + "9" * 5000]
    + ["steps=" + "[" * 3000, "steps=???", "steps=.nan", "clip=1e999", "name=\ud800", "steps=" + "1" * 400],
)
def test_overrides_of_odd_form_get_a_short_sentence(change: str) -> None:
    with pytest.raises(PhenakiError) as caught:
        override(Run(1), [change])
    assert len(str(caught.value)) < 300


def test_a_subclass_adds_bounds_and_limits_are_inclusive_where_declared() -> None:
    with pytest.raises(PhenakiError, match="^steps 0 must be at least 1$"):
        MoreBounded(steps=0)
    assert MoreBounded(None, 0, (0, 1), steps=1).lr is None
    with pytest.raises(FrozenInstanceError):
        MoreBounded().steps = 2  # type: ignore[misc]


def test_differences_of_plain_data_are_named() -> None:
    before = {"steps": 1, "mix": [{"place": "a", "weight": 1}, {"place": "b"}], "levels": [8, 8], "second": None}
    now = {"steps": 1, "mix": [{"place": "c", "weight": 1}, {"place": "b"}], "levels": [8], "second": {"lr": 1}, "x": 0}
    assert list(changes(before, now, "")) == [
        ("mix[0].place", "a", "c"),
        ("levels", [8, 8], [8]),
        ("second", None, {"lr": 1}),
        ("x", None, 0),
    ]
    assert list(changes({}, {"lr": 1}, "optimizer")) == [("optimizer.lr", None, 1)] and not list(changes(now, now, ""))
