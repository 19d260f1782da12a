"""Recordings of Doom by scripted play: video, actions, timed captions and poses (extra `doom`: the package vizdoom).

Read in this order: scenarios, engine (one game), player (what it does), captions, recording (the files).
"""

from __future__ import annotations

from phenaki.worlds.doom.captions import MONSTERS, timed_captions
from phenaki.worlds.doom.engine import ACTIONS, FPS, POSES, TURN, Game, Observation, VisibleObject
from phenaki.worlds.doom.player import Player
from phenaki.worlds.doom.recording import (
    Episode,
    Recording,
    RecordingConfig,
    RecordingReport,
    list_episodes,
    play,
    record_doom,
)
from phenaki.worlds.doom.scenarios import LEVELS, SCENARIOS, SMALL, UNSEEN, Scenario

__all__ = [
    "ACTIONS",
    "FPS",
    "LEVELS",
    "MONSTERS",
    "POSES",
    "SCENARIOS",
    "SMALL",
    "TURN",
    "UNSEEN",
    "Episode",
    "Game",
    "Observation",
    "Player",
    "Recording",
    "RecordingConfig",
    "RecordingReport",
    "Scenario",
    "VisibleObject",
    "list_episodes",
    "play",
    "record_doom",
    "timed_captions",
]
