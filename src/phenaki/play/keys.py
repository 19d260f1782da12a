"""Keys of the keyboard for the actions of a model."""

from __future__ import annotations

from typing import TypedDict

from phenaki.core.actions import ActionSpec

# names of actions to `KeyboardEvent.code`
_USUAL = {
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "turn_left": "ArrowLeft",
    "turn_right": "ArrowRight",
    "look_up": "ArrowUp",
    "look_down": "ArrowDown",
    "forward": "KeyW",
    "move_forward": "KeyW",
    "backward": "KeyS",
    "back": "KeyS",
    "move_backward": "KeyS",
    "move_left": "KeyA",
    "strafe_left": "KeyA",
    "move_right": "KeyD",
    "strafe_right": "KeyD",
    "jump": "Space",
    "fire": "Space",
    "attack": "Space",
    "shoot": "Space",
    "use": "KeyE",
    "run": "ShiftLeft",
    "speed": "ShiftLeft",
    "sprint": "ShiftLeft",
}
_FREE = [f"Digit{digit}" for digit in range(1, 10)] + [f"Key{letter}" for letter in "QWERTYUIOPASDFGHJKLZXCVBNM"]


class Binding(TypedDict):
    """An action and its keys, `KeyboardEvent.code`: of a button one, of an axis those for less and for more."""

    name: str
    kind: str
    keys: list[str]


def bind_keys(spec: ActionSpec | None) -> list[Binding]:
    """A key for each button and two for each axis, all different: the usual ones for usual names, then a letter of the
    name, then what is free. Without any key where none is left."""
    taken: set[str] = set()
    keys: dict[str, list[str]] = {} if spec is None else {name: [] for name in spec.names}

    def take(name: str, wanted: list[str], count: int = 1) -> None:
        free = [code for code in wanted if code not in taken][:count]
        keys[name] += free
        taken.update(free)

    if spec is not None:
        kinds = dict(zip(spec.names, spec.kinds, strict=True))
        for name, kind in kinds.items():
            if kind == "button" and name.lower() in _USUAL:
                take(name, [_USUAL[name.lower()]])
        for name, kind in kinds.items():
            letters = [f"Key{letter}" for letter in name.upper() if "A" <= letter <= "Z"]
            if kind == "button" and not keys[name]:
                take(name, letters + _FREE)
        for name, kind in kinds.items():
            if kind != "button":
                take(name, _FREE, 2)
        return [Binding(name=name, kind=kind, keys=keys[name]) for name, kind in kinds.items()]
    return []
