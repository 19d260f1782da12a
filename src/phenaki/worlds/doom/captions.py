"""Captions from what the engine knows: the scenario, what is in view, what the player does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from phenaki.worlds.doom.engine import ACTIONS, FPS, TURN, Observation

MONSTERS = {
    "Zombieman": "a soldier",
    "ShotgunGuy": "a soldier",
    "ChaingunGuy": "a soldier",
    "MarineChainsawVzd": "a soldier",
    "DoomImp": "a demon",
    "Demon": "a beast",
    "Spectre": "a shadow",
    "LostSoul": "a flying skull",
    "Cacodemon": "a floating monster",
    "HellKnight": "a large demon",
    "BaronOfHell": "a large demon",
    "Revenant": "a skeleton",
    "Arachnotron": "a spider",
    "Fatso": "a large monster",
    "Archvile": "a large monster",
    "Cyberdemon": "a giant",
    "SpiderMastermind": "a giant",
    "PainElemental": "a floating monster",
    "WolfensteinSS": "a soldier",
}
_OBJECTS = {
    "Medikit": "a health pack",
    "CustomMedikit": "a health pack",
    "Stimpack": "a health pack",
    "Poison": "a poison bottle",
    "HealthBonus": "a bottle",
    "ArmorBonus": "a helmet",
    "GreenArmor": "armour",
    "BlueArmor": "armour",
    "ExplosiveBarrel": "a barrel",
    "Column": "a lamp",
    "TechLamp": "a lamp",
    "TechLamp2": "a lamp",
    "Candelabra": "a lamp",
    "Candlestick": "a candle",
    "TallGreenColumn": "a pillar",
    "ShortGreenColumn": "a pillar",
    "TallRedColumn": "a pillar",
    "ShortRedColumn": "a pillar",
    "BlueTorch": "a torch",
    "GreenTorch": "a torch",
    "RedTorch": "a torch",
    "ShortBlueTorch": "a torch",
    "ShortGreenTorch": "a torch",
    "ShortRedTorch": "a torch",
    "BigTree": "a tree",
    "TorchTree": "a tree",
    "Shotgun": "a weapon",
    "SuperShotgun": "a weapon",
    "Chaingun": "a weapon",
    "RocketLauncher": "a weapon",
    "PlasmaRifle": "a weapon",
    "Clip": "ammunition",
    "ClipBox": "ammunition",
    "Shell": "ammunition",
    "ShellBox": "ammunition",
    "RocketAmmo": "ammunition",
    "RocketBox": "ammunition",
    "Cell": "ammunition",
    "CellPack": "ammunition",
    "Backpack": "ammunition",
    "BlueCard": "a key",
    "RedCard": "a key",
    "YellowCard": "a key",
    "BlueSkull": "a key",
    "RedSkull": "a key",
    "YellowSkull": "a key",
}
_SEGMENT = 16  # frames per caption, at least
_MIN_AREA = {True: 0.004, False: 0.006}  # fraction of the picture from which a monster, another object is mentioned


def timed_captions(title: str, observations: Sequence[Observation], actions: np.ndarray) -> list[tuple[float, str]]:
    """(second, caption) wherever the caption changes, the first at 0: "the maze, a demon: the player shoots".

    title: the scenario's. actions: uint8 (T, 8), columns ACTIONS. A caption describes the frames up to the next one.
    """
    texts: list[tuple[int, str]] = []
    for start in range(0, len(observations), _SEGMENT):
        segment = slice(start, start + _SEGMENT)
        if texts and len(observations) - start < _SEGMENT // 2:  # the rest is too short for its own caption
            break
        activity = _describe_activity(observations[segment], actions[segment])
        texts.append((start, f"{title}, {_describe_view(observations[segment])}: the player {activity}"))
    return [(next(group)[0] / FPS, text) for text, group in groupby(texts, key=lambda item: item[1])]


def _describe_view(observations: Sequence[Observation]) -> str:
    """The largest monster, else the largest known object, else how far the view reaches."""
    for names in (MONSTERS, _OBJECTS):
        areas: dict[str, float] = defaultdict(float)
        for seen in (seen for observation in observations for seen in observation.objects if seen.name in names):
            areas[names[seen.name]] = max(areas[names[seen.name]], seen.area)
        if areas and max(areas.values()) > _MIN_AREA[names is MONSTERS]:
            return max(areas, key=areas.__getitem__)
    reach = float(np.median([observation.distances[4:12].mean() for observation in observations]))
    return "a wall in front" if reach < 150 else "a room" if reach < 500 else "an open view"


def _describe_activity(observations: Sequence[Observation], actions: np.ndarray) -> str:
    """By the buttons and by how far they moved the player."""
    held = dict(zip(ACTIONS, actions.mean(0), strict=True))
    turned = (held["turn_left"] - held["turn_right"]) * len(observations) * TURN
    parts = []
    if max(held["forward"], held["backward"]) > 0.4:
        way = "forward" if held["forward"] > held["backward"] else "backward"
        moved = math.dist(observations[0].pose[:2], observations[-1].pose[:2])
        free = moved > 8 * len(observations) or abs(turned) > 90
        parts.append(f"walks {way}" if free else "walks into a wall" if way == "forward" else "backs into a wall")
    if abs(held["strafe_left"] - held["strafe_right"]) > 0.35:
        parts.append("steps left" if held["strafe_left"] > held["strafe_right"] else "steps right")
    if abs(turned) >= 150:
        parts.append("turns around")
    elif abs(turned) >= 40:
        parts.append("turns left" if turned > 0 else "turns right")
    elif held["turn_left"] > 0.15 and held["turn_right"] > 0.15:
        parts.append("looks around")
    if held["shoot"] > 0.15:
        parts.append("shoots")
    return " and ".join(parts) or "stands still"
