"""What many messages come to that wait for the same latent frame, so that no client can keep a worker busy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from phenaki.core.errors import PhenakiError
from phenaki.play.protocol import Adjust, Message, Move, Press, Release, Start

MOST_STEPS = 100  # decoding steps of a latent frame


def merge(messages: Sequence[Message], relative: frozenset[str]) -> list[Message]:
    """The messages that have an effect: those from the last start on, the last prompt and value of each option and
    level, the sums of `relative` axes, and of each button a press, if there was one, and how it ends."""
    starts = [index for index, message in enumerate(messages) if isinstance(message, Start)]
    kept: dict[tuple[str, ...], Message] = {}
    for message in messages[starts[-1] if starts else 0 :]:
        match message:
            case Press(action=action):
                kept.pop(("release", action), None)
                kept["press", action] = message
            case Release(action=action):
                kept["release", action] = message
            case Move(action=action, value=value):
                before = kept.get(("move", action)) if action in relative else None
                kept["move", action] = message.model_copy(update={"value": value + getattr(before, "value", 0.0)})
            case Adjust(option=option):
                kept["adjust", option] = message
            case _:
                kept[message.type,] = message
    return list(kept.values())


def check_steps(options: Mapping[str, float]) -> None:
    """Raise PhenakiError for more decoding steps than a client may ask for."""
    if options.get("steps", 0) > MOST_STEPS:
        raise PhenakiError(f"steps {options['steps']:g}: use at most {MOST_STEPS} here")
