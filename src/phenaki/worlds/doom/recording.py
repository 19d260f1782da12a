"""Records play: video with actions, timed captions and poses, as files that `phenaki.data` reads.

    train/dataset.json             names and kinds of the actions; each split is a data set of its own
    train/maze_0003.mp4            8.75 frames per second (every fourth tic of the engine), a keyframe every 8 frames
    train/maze_0003.actions.npy    uint8 (T, 8), columns ACTIONS; row i acts between frames i-1 and i, row 0 is zero
    train/maze_0003.poses.npy      float32 (T, 8), columns POSES, at each frame
    train/maze_0003.captions.json  [{"start": seconds, "text": ...}, ...], the first at 0, starts rising

An episode depends on the seed, its split, scenario and number alone. Its video is written last: an interrupted recorder
resumes with the first episode that has none.
"""

from __future__ import annotations

import io
import json
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phenaki.core.config import bounded, configclass
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.core.files import parse_json_object, write_atomic
from phenaki.core.locks import lock_folder
from phenaki.core.progress import track
from phenaki.media.writer import encode_mp4
from phenaki.worlds.doom.captions import timed_captions
from phenaki.worlds.doom.engine import ACTIONS, FPS, FRAME_SIZE, POSES, TURN, Game, engine_version
from phenaki.worlds.doom.player import Player, shows_plain_wall
from phenaki.worlds.doom.scenarios import SCENARIOS, SMALL

_ATTEMPTS = 6  # at an episode that is worth keeping
_DARK = 8  # mean of RGB in 0..255 below which a frame shows nothing
_AREA = 48.0  # map units: one and a half frames of walking
_CRF, _KEYFRAME_INTERVAL = 18, 8  # clips may begin at any frame: few others are decoded before it


@configclass
class RecordingConfig:
    """What to record, in minutes per split, divided evenly over the scenarios.

    train: minutes to train on. new_starts: other episodes of the same scenarios. unseen_maps: minutes of
    `unseen_scenarios`, which no other split contains. seconds: shortest and longest episode.
    """

    out: Path
    scenarios: tuple[str, ...] = SMALL
    unseen_scenarios: tuple[str, ...] = ()
    train: float = bounded(60.0, at_least=0)
    new_starts: float = bounded(6.0, at_least=0)
    unseen_maps: float = bounded(0.0, at_least=0)
    seconds: tuple[float, float] = bounded((10.0, 60.0), at_least=1, at_most=600)
    seed: int = bounded(0, at_least=0)

    def __post_init__(self) -> None:
        for name in (*self.scenarios, *self.unseen_scenarios):
            if name not in SCENARIOS:
                raise PhenakiError(
                    f"There is no scenario '{name}'.{did_you_mean(name, SCENARIOS)} Scenarios: {', '.join(SCENARIOS)}."
                )
        if not self.scenarios:
            raise PhenakiError(f"Name at least one scenario: {', '.join(SCENARIOS)}.")
        if both := sorted(set(self.scenarios) & set(self.unseen_scenarios)):
            raise PhenakiError(f"A scenario is either trained on or unseen; {', '.join(both)} is named as both.")
        if self.unseen_maps > 0 and not self.unseen_scenarios:
            raise PhenakiError(f"{self.unseen_maps:g} minutes of unseen maps need unseen scenarios: name some.")
        if self.seconds[0] > self.seconds[1]:
            raise PhenakiError(
                f"The shortest episode, {self.seconds[0]:g} s, exceeds the longest, {self.seconds[1]:g} s."
            )


class Episode(NamedTuple):
    """An episode to record: at most `frames` frames of a scenario, as number `number` of a split."""

    split: str
    scenario: str
    number: int
    frames: int

    @property
    def name(self) -> str:
        return f"{self.scenario}_{self.number:04d}"

    def rng(self, seed: int, *more: int) -> np.random.Generator:
        key = f"{self.split}/{self.scenario}/{self.number}"
        return np.random.default_rng([seed, zlib.crc32(key.encode()), *more])


class Recording(NamedTuple):
    """frames uint8 (T, 120, 160, 3), actions uint8 (T, 8), poses float32 (T, 8), captions (second, text)."""

    frames: np.ndarray
    actions: np.ndarray
    poses: np.ndarray
    captions: list[tuple[float, str]]


@dataclass
class RecordingReport:
    """Episodes and minutes per split. skipped: episodes without an attempt worth keeping."""

    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    minutes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    skipped: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        done = [f"{split}: {n:,} episodes, {self.minutes[split]:.1f} minutes" for split, n in self.episodes.items()]
        why = "in every attempt the level ended early, was dark, or the player hardly moved or faced plain walls"
        return done + [f"skipped {name}: {why}" for name in self.skipped]


def record_doom(config: RecordingConfig) -> RecordingReport:
    """Play and write what `config` asks for; existing episodes are kept.

    Raises PhenakiError if vizdoom is missing, the folder cannot be written or holds a recording of another
    configuration, or the disk is full; the same call resumes.
    """
    version = engine_version()
    with lock_folder(config.out, "recording"):
        return _record(config, version)


def _record(config: RecordingConfig, version: str) -> RecordingReport:
    report = RecordingReport()
    for episode in track(list_episodes(config), "episodes recorded"):
        folder = config.out / episode.split
        video = folder / f"{episode.name}.mp4"
        if episode.split not in report.episodes:
            _write_spec(folder, config, version)
        report.episodes[episode.split] += 0
        if not video.exists():
            recording = play(episode, config)
            if recording is None:
                report.skipped.append(f"{episode.split}/{episode.name}")
                continue
            _write(video, recording)
        frames = len(np.load(video.with_suffix(".actions.npy"), mmap_mode="r"))  # fewer than asked for after an exit
        report.episodes[episode.split] += 1
        report.minutes[episode.split] += frames / FPS / 60
    return report


def list_episodes(config: RecordingConfig) -> list[Episode]:
    """All that `config` asks for, in order. More minutes add episodes and change none."""
    episodes = []
    splits = {"train": config.scenarios, "new_starts": config.scenarios, "unseen_maps": config.unseen_scenarios}
    for split, scenarios in splits.items():
        for scenario in scenarios:
            left, number = getattr(config, split) * 60 / len(scenarios), 0
            while left > 0:
                seconds = Episode(split, scenario, number, 0).rng(config.seed).uniform(*config.seconds)
                episodes.append(Episode(split, scenario, number, round(seconds * FPS)))
                left, number = left - seconds, number + 1
    return episodes


def play(episode: Episode, config: RecordingConfig) -> Recording | None:
    """Play an episode, the same each time; it ends early where the level does.

    None if no attempt is worth keeping: shorter than the shortest episode, dark, on one spot, or of plain walls.
    """
    shortest = min(episode.frames, round(config.seconds[0] * FPS))
    for attempt in range(_ATTEMPTS):
        recording = _attempt(episode, episode.rng(config.seed, attempt))
        if recording is not None and len(recording.frames) >= shortest and not is_dull(recording):
            return recording
    return None


def is_dull(recording: Recording) -> bool:
    """Whether a tenth of the frames show nothing (black, or a plain wall), or two in three lie around one spot."""
    empty = [frame.mean() < _DARK or shows_plain_wall(frame) for frame in recording.frames]
    position = recording.poses[:, :2]
    distance = np.linalg.norm(position - np.median(position, axis=0), axis=1)
    return bool(np.mean(empty) > 0.1 or np.quantile(distance, 0.67) < _AREA)


def _attempt(episode: Episode, rng: np.random.Generator) -> Recording | None:
    scenario = SCENARIOS[episode.scenario]
    game = Game(scenario, rng)
    try:
        player = Player(rng)
        observations, pressed = [], [frozenset()]
        observation = game.observe()
        while observation is not None:
            observations.append(observation)
            if len(observations) == episode.frames:
                break
            pressed.append(player.act(observation))
            observation = game.step(pressed[-1])
    finally:
        game.close()
    if not observations:
        return None
    actions = np.array([[name in held for name in ACTIONS] for held in pressed[: len(observations)]], np.uint8)
    return Recording(
        np.stack([observation.frame for observation in observations]),
        actions,
        np.array([observation.pose for observation in observations], np.float32),
        timed_captions(scenario.title, observations, actions),
    )


def _write(video: Path, recording: Recording) -> None:
    for name, rows in (("actions", recording.actions), ("poses", recording.poses)):
        buffer = io.BytesIO()
        np.save(buffer, rows)
        _write_bytes(video.with_suffix(f".{name}.npy"), buffer.getvalue())
    captions = [{"start": round(start, 3), "text": text} for start, text in recording.captions]
    _write_bytes(video.with_suffix(".captions.json"), json.dumps(captions, indent=1).encode())
    fps = Fraction(FPS).limit_denominator(1001)
    _write_bytes(video, encode_mp4([*recording.frames], fps, FRAME_SIZE, _CRF, _KEYFRAME_INTERVAL))


def _write_bytes(path: Path, content: bytes) -> None:
    with write_atomic(path) as file:
        file.write(content)


def _write_spec(folder: Path, config: RecordingConfig, version: str) -> None:
    """dataset.json. Raises PhenakiError if the folder has one of another recording."""
    scenarios = config.unseen_scenarios if folder.name == "unseen_maps" else config.scenarios
    spec: dict[str, Any] = {
        "actions": {"names": list(ACTIONS), "kinds": ["button"] * len(ACTIONS)},
        "poses": list(POSES),
        "fps": FPS,
        "degrees_per_turn": TURN,
        "scenarios": list(scenarios),
        "seconds": list(config.seconds),
        "seed": config.seed,
        "engine": version,
    }
    path = folder / "dataset.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhenakiError(f"Cannot make the folder '{folder}': {error.strerror or error}.") from error
    if not path.exists():
        _write_bytes(path, json.dumps(spec, indent=1).encode())
        return
    try:
        existing = parse_json_object(path.read_bytes(), f"'{path}'")
    except (OSError, PhenakiError) as error:
        raise PhenakiError(f"'{path}' cannot be read: {error}. Record into another folder.") from error
    for key, value in spec.items():
        if existing.get(key) != value:
            raise PhenakiError(
                f"'{folder}' holds a recording with {key} {existing.get(key)}, not {value}: name another folder."
            )
