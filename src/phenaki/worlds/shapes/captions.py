"""Captions: scenes to words, and words back to the claims they make.

`caption` writes and `parse_caption` reads with the same tables, so one is the inverse of the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.worlds.shapes.scene import COLORS, Scene, SceneObject

# The first word of each entry is the most frequent one.
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
MOVE_WORDS = ("moves", "glides", "drifts", "travels", "slides", "goes")
WAY_WORDS = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
    "up-left": ("up and to the left", "diagonally up and left", "towards the upper left", "to the top left"),
    "up-right": ("up and to the right", "diagonally up and right", "towards the upper right", "to the top right"),
    "down-left": ("down and to the left", "diagonally down and left", "towards the lower left", "to the bottom left"),
    "down-right": (
        "down and to the right",
        "diagonally down and right",
        "towards the lower right",
        "to the bottom right",
    ),
}
ACTION_WORDS = {
    "still": ("stays still", "stands still", "keeps still", "rests"),
    "grow": ("grows", "gets bigger", "becomes larger", "expands"),
    "shrink": ("shrinks", "gets smaller", "becomes smaller", "contracts"),
    "spin": ("spins", "rotates", "spins clockwise", "rotates clockwise"),
    "fade": ("fades away", "fades out", "disappears", "vanishes"),
    "appear": ("appears", "fades in", "becomes visible"),
    "steered": ("obeys the arrow keys", "follows the arrow keys", "is steered", "is steered by the arrow keys"),
}
RECOLOR_WORDS = ("turns {}", "becomes {}", "changes to {}", "changes its color to {}")
BACKGROUND_WORDS = (
    "on a {} background",
    "over {}",
    "in front of a {} background",
    "against {}",
    "against a {} background",
)
GRADIENT_WORDS = ("on a gradient background", "over a soft gradient", "in front of a gradient", "against a gradient")
JOINS = ("while", "and", "as")


@dataclass(frozen=True)
class ObjectClaims:
    """What a caption says about one object; None: nothing."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    action: str | None = None
    target_color: str | None = None


@dataclass(frozen=True)
class Claims:
    """What a caption says about a video: about each of its objects, and about the background."""

    objects: tuple[ObjectClaims, ...]
    background: str | None = None


def true_claims(scene: Scene) -> Claims:
    """Everything that is true of a scene. An image (1 frame) has no action."""
    return Claims(
        tuple(
            ObjectClaims(o.shape, o.color, o.size, o.action if scene.frames > 1 else None, o.target_color)
            for o in scene.objects
        ),
        scene.background,
    )


def _usually(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """The first word in half of the cases, else a random one."""
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]


def _action(obj: SceneObject, rng: np.random.Generator) -> str:
    if obj.action in WAY_WORDS:
        return f"{_usually(rng, MOVE_WORDS)} {_usually(rng, WAY_WORDS[obj.action])}"
    if obj.action == "recolor":
        return _usually(rng, RECOLOR_WORDS).format(obj.target_color)
    return _usually(rng, ACTION_WORDS[obj.action])


def _background(name: str, rng: np.random.Generator) -> str:
    return _usually(rng, GRADIENT_WORDS) if name == "gradient" else _usually(rng, BACKGROUND_WORDS).format(name)


def _introduction(obj: SceneObject, full: bool, rng: np.random.Generator) -> str:
    words = f"{obj.color} {_usually(rng, SHAPE_WORDS[obj.shape])}"
    if obj.size is not None and (rng.random() < 0.8 or full):
        words = f"{_usually(rng, SIZE_WORDS[obj.size])} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _reference(obj: SceneObject, alone: bool, rng: np.random.Generator) -> str:
    draw = 1.0 if obj.action == "appear" else rng.random()  # an object that is not visible yet is named in full
    if alone and draw < 0.2:
        return "it"
    shape = _usually(rng, SHAPE_WORDS[obj.shape])
    return f"the {shape}" if alone and draw < 0.4 else f"the {obj.color} {shape}"


def caption(scene: Scene, rng: np.random.Generator, continuing: bool = False, full: bool = False) -> str:
    """A caption of the scene in random words.

    About 20 % of the objects are named without a size, 20 % of the scenes without a background. `continuing`: for a
    scene that continues another ("now the red circle goes up"): no sizes, and mostly no background. `full`: always name
    sizes and background, as at the start of a story, whose later scenes depend on them.
    """
    alone = len(scene.objects) == 1
    order = list(scene.objects)
    if not alone and rng.random() < 0.5:
        order.reverse()
    parts = []
    for obj in order:
        subject = _reference(obj, alone, rng) if continuing else _introduction(obj, full, rng)
        parts.append(f"{subject} {_action(obj, rng)}" if scene.frames > 1 else subject)
    text = f" {_usually(rng, JOINS) if scene.frames > 1 else 'and'} ".join(parts)
    if continuing:
        draw = rng.random()
        text = f"now {text}" if draw < 0.5 else f"then {text}" if draw < 0.6 else text
    if rng.random() < (0.3 if continuing else 0.8) or full:
        background = _background(scene.background, rng)
        if rng.random() < 0.25 and not continuing:
            return f"{background}, {text}"
        return f"{text}, {background}" if scene.frames > 1 else f"{text} {background}"
    return text


def _lexicon() -> dict[tuple[str, ...], tuple[str, str | None]]:
    entries: dict[str, tuple[str, str | None]] = {"it": ("noun", None)}
    for shape, words in SHAPE_WORDS.items():
        entries |= {w: ("noun", shape) for w in words}
    for color in COLORS:
        entries[color] = ("color", color)
        entries |= {w.format(color): ("recolor", color) for w in RECOLOR_WORDS}
    for size, words in SIZE_WORDS.items():
        entries |= {w: ("size", size) for w in words}
    for way, words in WAY_WORDS.items():
        entries |= {f"{verb} {w}": ("action", way) for verb in MOVE_WORDS for w in words}
    for action, words in ACTION_WORDS.items():
        entries |= {w: ("action", action) for w in words}
    for name in ("black", "gray", "navy", "brown"):
        entries |= {w.format(name): ("background", name) for w in BACKGROUND_WORDS}
        entries |= {f"{w} {name}": ("background", name) for w in ("on", "in front of")}
    entries |= {w: ("background", "gradient") for w in GRADIENT_WORDS}
    entries |= {
        f"{p} a {g}": ("background", "gradient")
        for p in ("on", "over", "against", "in front of")
        for g in ("gradient", "soft gradient", "gradient background", "soft gradient background")
    }
    entries |= {w: ("filler", None) for w in ("a", "an", "the", "now", "then", *JOINS)}
    return {tuple(k.split()): v for k, v in entries.items()}


_LEXICON = _lexicon()
_LONGEST = max(map(len, _LEXICON))
VOCABULARY = sorted({word for phrase in _LEXICON for word in phrase})
_SPELLINGS = {"grey": "gray", "colour": "color", "disk": "disc"}


def _unreadable(text: str, words: list[str], at: int) -> PhenakiError:
    word = next((w for w in words[at:] if w not in VOCABULARY), None)
    if word is None:
        phrase = " ".join(words[at : at + 4])
        return PhenakiError(
            f"cannot read the caption {text!r} at {phrase!r}: expected something like "
            "'a small red circle moves to the right, on a black background'"
        )
    hint = did_you_mean(word, VOCABULARY) or f" It tells of {', '.join(SHAPE_WORDS)} and what they do."
    return PhenakiError(f"the world of shapes has no word {word!r}, in the caption {text!r}.{hint}")


def parse_caption(text: str) -> Claims:
    """The claims a caption makes. Raises PhenakiError, naming the word, if it cannot be parsed."""
    words = [_SPELLINGS.get(w, w) for w in re.findall(r"[^\s,.;:!?]+", text.lower())]
    objects: list[ObjectClaims] = []
    found: dict[str, str | None] = {}  # of the current object
    background: str | None = None

    def finish(at: int) -> None:
        if not found:
            return
        if "noun" not in found:
            raise _unreadable(text, words, min(at, len(words) - 1))
        objects.append(
            ObjectClaims(found["noun"], found.get("color"), found.get("size"), found.get("action"), found.get("target"))
        )
        found.clear()

    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            if (entry := _LEXICON.get(tuple(words[at : at + length]))) is not None:
                break
        else:
            raise _unreadable(text, words, at)
        kind, value = entry
        if kind in ("action", "recolor"):
            if "noun" not in found or "action" in found:
                raise _unreadable(text, words, at)
            found |= {"action": value} if kind == "action" else {"action": "recolor", "target": value}
        elif kind == "background":
            if background is not None:
                raise _unreadable(text, words, at)
            background = value
        elif kind != "filler":
            if "noun" in found:
                finish(at)
            if kind in found:
                raise _unreadable(text, words, at)
            found[kind] = value
        at += length
    finish(at)
    if not objects:
        raise PhenakiError(f"the caption {text!r} names no object: name one, such as 'a red circle'")
    if len(objects) > 2:
        raise PhenakiError(f"the caption {text!r} names {len(objects)} objects: a scene has one or two")
    return Claims(tuple(objects), background)
