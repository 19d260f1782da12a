"""What can be recorded: scenarios of the vizdoom package, and the 32 levels of Freedoom that it carries.

`cig.wad`, whose licence is unknown, and the multiplayer scenarios are left out. docs/doom.md lists the licences.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """title: its name in captions. wad: file in vizdoom's `scenarios` folder; empty for Freedoom's own levels."""

    title: str
    wad: str = ""
    level: str = "MAP01"


SCENARIOS: dict[str, Scenario] = {
    "maze": Scenario("the maze", "my_way_home.wad"),
    "acid_hall": Scenario("the acid hall", "health_gathering_supreme.wad"),
    "arena": Scenario("the arena", "deathmatch.wad"),
    "corridor": Scenario("the corridor", "deadly_corridor.wad"),
    "court": Scenario("the round court", "defend_the_center.wad"),
    "gallery": Scenario("the gallery", "defend_the_line.wad"),
    "brick_room": Scenario("the brick room", "basic.wad"),
    "shooting_range": Scenario("the shooting range", "predict_position.wad"),
} | {f"map{number:02d}": Scenario(f"level {number}", level=f"MAP{number:02d}") for number in range(1, 33)}

SMALL = tuple(name for name, scenario in SCENARIOS.items() if scenario.wad)
UNSEEN = ("map05", "map09", "map13", "map21", "map23", "map25")
"""Levels that are held out of all training, by convention."""
LEVELS = tuple(name for name, scenario in SCENARIOS.items() if not scenario.wad and name not in UNSEEN)
