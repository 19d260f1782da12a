"""Records play of ViZDoom: video with actions, captions that change within the clip, and poses.

Each episode is four files of one name. A video exists only when its episode is complete, so a recorder that was killed
goes on with the first one that is missing, and an episode depends on the seed, its scenario and its number alone.

    maze_0003.mp4             frames (T, H, W), 8.75 per second: one every four tics of the engine
    maze_0003.actions.npy     uint8 (T, 8), columns ACTIONS; row i acts between frames i-1 and i, row 0 is zero
    maze_0003.poses.npy       float32 (T, 8), columns POSES, at each frame
    maze_0003.captions.json   [{"start": seconds, "text": ...}, ...], the first at 0, starts rising
"""

from __future__ import annotations

import io
import json
import math
import os
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from phenaki.errors import PhenakiError, did_you_mean
from phenaki.files import write_whole
from phenaki.progress import tracked
from phenaki.video import open_writer

if TYPE_CHECKING:
    import vizdoom

ACTIONS = ("forward", "backward", "strafe_left", "strafe_right", "turn_left", "turn_right", "shoot", "use")
POSES = ("x", "y", "z", "angle", "health", "ammo", "kills", "distance")
"""Map units, map units, map units, degrees counter-clockwise from east, percent, rounds, monsters killed, map units to
what is ahead."""
TICS = 4  # of the engine in a frame
FPS = 35 / TICS
TURN = 15.0  # degrees in a frame in which a turn button is held: six frames are a right angle

_RENDERED = (240, 320)  # twice the size that is kept: each pixel is the mean of four, or far textures would flicker
_SIZE = (120, 160)
_PISTOL = 2  # the engine's number of it
_DEPTH_UNIT = 7.3  # map units in a step of the engine's depth buffer
_WARM_UP = 8  # frames before the first that is kept: a weapon is raised, monsters come to life
_ATTEMPTS = 6  # at an episode that is worth keeping
_DARK = 8  # mean of RGB in 0..255 below which a frame shows nothing
_SPOT = 48.0  # map units: one and a half frames of walking


@dataclass(frozen=True)
class Scenario:
    """place: what captions call it. wad: of the package's scenarios; empty for Freedoom's own levels."""

    place: str
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

ROOMS = ("maze", "acid_hall", "arena", "corridor", "court", "gallery", "brick_room", "shooting_range")
UNSEEN = ("map05", "map09", "map13", "map21", "map23", "map25")
LEVELS = tuple(name for name in SCENARIOS if name.startswith("map") and name not in UNSEEN)


@dataclass(frozen=True)
class RecordingConfig:
    """What to record. `minutes` are of play, in all; they are divided evenly over `scenarios`.

    train: minutes of the split that is trained on. new_starts: of the same scenarios, from other starts. unseen:
    minutes of `unseen_scenarios`, which no other split contains. seconds: shortest and longest episode.
    """

    out: Path
    scenarios: tuple[str, ...] = ROOMS
    unseen_scenarios: tuple[str, ...] = ()
    train: float = 60.0
    new_starts: float = 6.0
    unseen: float = 0.0
    seconds: tuple[float, float] = (10.0, 60.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.scenarios, *self.unseen_scenarios):
            if name not in SCENARIOS:
                raise PhenakiError(
                    f"there is no scenario '{name}'.{did_you_mean(name, SCENARIOS)} Scenarios: {', '.join(SCENARIOS)}."
                )
        if not self.scenarios:
            raise PhenakiError(f"name at least one scenario: {', '.join(SCENARIOS)}")
        if both := sorted(set(self.scenarios) & set(self.unseen_scenarios)):
            raise PhenakiError(f"{', '.join(both)} cannot be both recorded for training and kept unseen: name it once")
        if self.unseen > 0 and not self.unseen_scenarios:
            raise PhenakiError(f"unseen {self.unseen:g} minutes need scenarios that are not trained on: name some")
        for name in ("train", "new_starts", "unseen"):
            if not 0 <= getattr(self, name) < 1e6:
                raise PhenakiError(f"{name} {getattr(self, name)} must be a number of minutes, 0 or more")
        shortest, longest = self.seconds
        if not 1 <= shortest <= longest <= 600:
            raise PhenakiError(f"seconds {shortest:g} to {longest:g} must rise, from 1 to 600")


class Episode(NamedTuple):
    """One to record: `frames` of `scenario`, as number `number` of a split."""

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
    """What was played: frames uint8 (T, H, W, 3), actions uint8 (T, 8), poses float32 (T, 8), captions by second."""

    frames: np.ndarray
    actions: np.ndarray
    poses: np.ndarray
    captions: list[tuple[float, str]]


@dataclass
class RecordingReport:
    """Episodes and minutes by split; `skipped`, those of which no attempt was worth keeping."""

    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    minutes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    skipped: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        done = [f"{split}: {n:,} episodes, {self.minutes[split]:.1f} minutes" for split, n in self.episodes.items()]
        why = "in each attempt its level ended within seconds, it was dark, or the player hardly moved"
        return done + [f"skipped {name}: {why}" for name in self.skipped]


def record_doom(config: RecordingConfig) -> RecordingReport:
    """Play and write what `config` asks for; episodes that exist are kept.

    Raises PhenakiError where vizdoom is missing, the folder holds a recording of another configuration or cannot be
    written, or the disk is full; the same call goes on from there.
    """
    _vizdoom()
    out, report = Path(config.out), RecordingReport()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhenakiError(f"Cannot make the folder '{out}': {error.strerror or error}.") from error
    _write_spec(out, config)
    for episode in tracked(episodes(config), "episodes recorded"):
        folder = out / episode.split
        video = folder / f"{episode.name}.mp4"
        if not video.exists():
            recording = play(episode, config)
            if recording is None:
                report.skipped.append(f"{episode.split}/{episode.name}")
                continue
            folder.mkdir(exist_ok=True)
            _write(video, recording)
        report.episodes[episode.split] += 1
        frames = len(np.load(video.with_suffix(".actions.npy"), mmap_mode="r"))  # fewer than asked for after an exit
        report.minutes[episode.split] += frames / FPS / 60
    return report


def episodes(config: RecordingConfig) -> list[Episode]:
    """All that `config` asks for, in order. More minutes add episodes and change none."""
    found = []
    of_split = {
        "train": (config.train, config.scenarios),
        "new_starts": (config.new_starts, config.scenarios),
        "unseen_maps": (config.unseen, config.unseen_scenarios),
    }
    for split, (minutes, scenarios) in of_split.items():
        for scenario in scenarios:
            left, number = minutes * 60 / len(scenarios), 0
            while left > 0:
                seconds = Episode(split, scenario, number, 0).rng(config.seed).uniform(*config.seconds)
                found.append(Episode(split, scenario, number, round(seconds * FPS)))
                left, number = left - seconds, number + 1
    return found


def play(episode: Episode, config: RecordingConfig) -> Recording | None:
    """Play one episode: the same each time. None if no attempt is worth keeping: the level ended before the shortest
    length, the player hardly moved, or it was in the dark.

    An episode whose level ends later (by an exit) is as long as it lasted.
    """
    shortest = min(episode.frames, round(config.seconds[0] * FPS))
    for attempt in range(_ATTEMPTS):
        recording = _play(episode, episode.rng(config.seed, attempt), SCENARIOS[episode.scenario])
        if recording is not None and len(recording.frames) >= shortest and not _dull(recording):
            return recording
    return None


def _dull(recording: Recording) -> bool:
    """Whether a fifth of the frames are almost black, or two in three lie around one spot."""
    dark = recording.frames.mean((1, 2, 3)) < _DARK
    places = recording.poses[:, :2]
    away = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    return bool(dark.mean() > 0.2 or np.quantile(away, 0.67) < _SPOT)


def _play(episode: Episode, rng: np.random.Generator, scenario: Scenario) -> Recording | None:
    game = Game(scenario, rng)
    try:
        player = Player(rng)
        frames, actions, views = [], [], []
        for _ in range(episode.frames):
            pressed = player.act(views[-1]) if views else frozenset()
            view = game.step(pressed) if views else game.view()
            if view is None:
                break
            frames.append(view.frame)
            actions.append([name in pressed for name in ACTIONS])
            views.append(view)
    finally:
        game.close()
    if not frames:
        return None
    actions = np.array(actions, np.uint8)
    poses = np.array([view.pose for view in views], np.float32)
    return Recording(np.stack(frames), actions, poses, captions(scenario.place, views, actions))


# the engine


class Seen(NamedTuple):
    """An object in view: its engine name, its column from -1 (left) to 1 (right), its share of the picture."""

    name: str
    column: float
    area: float


class View(NamedTuple):
    """What the player knows at a frame: frame uint8 (H, W, 3), POSES, free distance by column (left to right, map
    units), objects in view."""

    frame: np.ndarray
    pose: tuple[float, ...]
    distances: np.ndarray
    objects: tuple[Seen, ...]


class Game:
    """The engine, at a random start of a scenario. The player cannot die, and has a pistol that is never empty.

    No status bar, no bobbing, no colour flashes: a red picture of a hurt player teaches a model nothing about the map.
    """

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        peaceful = rng.random() < 0.5  # monsters do not look for the player
        self._game = _started(scenario, int(rng.integers(2**31)))
        self.step(frozenset())  # a level's script may take all weapons at its start
        for command in ("god", "give pistol", "use pistol", *(["notarget"] if peaceful else [])):
            self._game.send_game_command(command)
            self.step(frozenset())  # the next may need what this one gives
        if not scenario.wad:
            self._go_somewhere(rng)
        for _ in range(_WARM_UP):
            self.step(frozenset())

    def view(self) -> View | None:
        """None where the level has ended."""
        state = self._game.get_state()
        if state is None:
            return None
        frame = np.asarray(Image.fromarray(state.screen_buffer).reduce(2))
        height, width = _RENDERED
        objects = [
            Seen(
                label.object_name,
                (2 * label.x + label.width) / width - 1,
                label.width * label.height / (height * width),
            )
            for label in state.labels
            if label.object_name != "DoomPlayer"
        ]
        rows = state.depth_buffer[height // 2 - 6 : height // 2 + 30 : 4, ::4]
        columns = np.median(rows.reshape(len(rows), 16, -1), axis=(0, 2))
        distances = columns * _DEPTH_UNIT
        pose = (*(float(value) for value in state.game_variables), float(distances[6:10].mean()))
        return View(frame, pose, distances, tuple(objects))

    def step(self, pressed: frozenset[str]) -> View | None:
        """One frame with these buttons of ACTIONS held. None where the level has ended."""
        if self._game.is_episode_finished():
            return None
        held = [float(name in pressed) for name in ACTIONS]
        turn = (held[5] - held[4]) * TURN / TICS
        self._game.make_action([*held[:4], turn, *held[6:]], TICS)
        if self._game.is_episode_finished():
            return None
        if self._game.get_game_variable(_vizdoom().GameVariable.SELECTED_WEAPON) != _PISTOL:  # fists, after a pickup
            self._game.send_game_command("use pistol")
        return self.view()

    def close(self) -> None:
        self._game.close()

    def _go_somewhere(self, rng: np.random.Generator) -> None:
        """To the place of a random object, and from there a random angle: levels begin in one spot otherwise."""
        state = self._game.get_state()
        places = [(thing.position_x, thing.position_y) for thing in state.objects] if state else []
        for index in rng.permutation(len(places))[:8]:
            self._game.send_game_command(f"warp {places[index][0]:.0f} {places[index][1]:.0f}")
            self._turn(rng)
            before = self.step(frozenset())
            after = [self.step(frozenset({"forward"})) for _ in range(3)][-1]
            if before is None or after is None or math.dist(before.pose[:2], after.pose[:2]) > 40:
                return

    def _turn(self, rng: np.random.Generator) -> None:
        for _ in range(int(rng.integers(24))):
            self.step(frozenset({"turn_left"}))


_SETTINGS = (
    "+movebob 0 +stillbob 0",  # the picture and the weapon keep still while walking
    "+sv_infiniteammo 1 +neverswitchonpickup 1",
    "+cl_showsecretmessage 0 +con_midtime 0",  # no text in the picture
)


def _started(scenario: Scenario, seed: int) -> vizdoom.DoomGame:
    vizdoom = _vizdoom()
    package = Path(vizdoom.__file__).parent
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    if scenario.wad:
        game.set_doom_scenario_path(str(package / "scenarios" / scenario.wad))
    game.set_doom_config_path(os.devnull)  # else settings come from, and go to, a file in the working directory
    game.set_doom_map(scenario.level)
    game.set_doom_skill(2)
    game.set_seed(seed)
    game.set_episode_timeout(0)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_hud(False)
    game.set_render_weapon(True)
    game.set_render_crosshair(False)
    game.set_render_messages(False)
    game.set_render_screen_flashes(False)
    game.set_render_decals(False)  # marks of shots on walls are the engine's own pictures, not Freedoom's
    game.set_depth_buffer_enabled(True)
    game.set_labels_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    buttons, variables = vizdoom.Button, vizdoom.GameVariable
    game.set_available_buttons(
        [
            buttons.MOVE_FORWARD,
            buttons.MOVE_BACKWARD,
            buttons.MOVE_LEFT,
            buttons.MOVE_RIGHT,
            buttons.TURN_LEFT_RIGHT_DELTA,
            buttons.ATTACK,
            buttons.USE,
        ]
    )
    game.set_available_game_variables(
        [
            variables.POSITION_X,
            variables.POSITION_Y,
            variables.POSITION_Z,
            variables.ANGLE,
            variables.HEALTH,
            variables.SELECTED_WEAPON_AMMO,
            variables.KILLCOUNT,
        ]
    )
    game.add_game_args(" ".join(_SETTINGS))
    game.set_mode(vizdoom.Mode.PLAYER)
    folder = Path("_vizdoom")  # the engine makes it where it starts, and leaves it empty
    was_there = folder.exists()
    try:
        game.init()
    except (vizdoom.ViZDoomErrorException, vizdoom.ViZDoomUnexpectedExitException) as error:
        level = f"{scenario.level} of {scenario.wad or 'freedoom2.wad'}"
        raise PhenakiError(f"vizdoom does not start {level}: {error}") from error
    finally:
        if not was_there:
            with suppress(OSError):
                folder.rmdir()
    return game


def _vizdoom():
    try:
        import vizdoom
    except ImportError as error:
        raise PhenakiError('Recording Doom needs the package vizdoom: pip install "phenaki[doom]".') from error
    return vizdoom


# the player

_CELL = 96.0  # map units: how finely the explorer remembers where it was
_NEAR, _BLOCKED = 120.0, 56.0
_STUCK = 28  # frames


class Player:
    """Decides what is pressed, by behaviours that follow one another: exploring, wandering at random, looking around,
    stepping along a wall. It shoots at monsters it faces, and now and then at nothing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.view: View | None = None
        self._visits: dict[tuple[int, int], int] = defaultdict(int)
        self._behaviour = self._behave()
        self._trigger = 0
        self._close = 0
        self._trail: deque[tuple[float, float]] = deque(maxlen=_STUCK)

    def act(self, view: View) -> frozenset[str]:
        """The buttons for the frame after `view`."""
        self.view = view
        self._visits[self._cell(view.pose[0], view.pose[1])] += 1
        self._close = self._close + 1 if view.distances.max() < _NEAR else 0
        pressed = set(next(self._behaviour))
        self._trail.append(view.pose[:2])
        if len(self._trail) == _STUCK and np.ptp(self._trail, axis=0).max() < 24:
            self._trail.clear()
            self._behaviour = chain(self._break_free(), self._behave())
        if self._trigger == 0:
            facing = any(seen.name in MONSTERS and abs(seen.column) < 0.15 for seen in view.objects)
            if self.rng.random() < (0.35 if facing else 0.015):
                self._trigger = int(self.rng.integers(2, 10))
        if self._trigger:
            self._trigger -= 1
            pressed.add("shoot")
        return frozenset(pressed)

    def _behave(self) -> Iterator[set[str]]:
        behaviours = (self._explore, self._wander, self._look_around, self._step_along)
        while True:
            yield from behaviours[self.rng.choice(4, p=(0.42, 0.23, 0.13, 0.22))]()

    def _explore(self) -> Iterator[set[str]]:
        """Walk where there is room and where it has been least; open what blocks the way, or turn."""
        tried_door = -20
        for time in range(int(self.rng.integers(30, 120))):
            ahead = float(self.view.distances[6:10].min())
            if ahead < _BLOCKED + 20 and time - tried_door > 20 and self.rng.random() < 0.6:
                tried_door = time
                for _ in range(2):
                    yield {"use", "forward"}
                for _ in range(int(self.rng.integers(6, 12))):  # a door takes its time
                    yield set()
                continue
            if ahead < _NEAR:
                yield from self._turn_away()
                continue
            yield {"forward"} | self._steering()

    def _steering(self) -> set[str]:
        """The turn towards the most attractive of the directions in view, if it is not ahead."""
        x, y, _, angle = self.view.pose[:4]
        merits = []
        for offset, distance in zip(np.linspace(40, -40, 16), self.view.distances, strict=True):
            reach, heading = min(float(distance) * 0.8, 400.0), math.radians(angle + offset)
            visits = self._visits[self._cell(x + reach * math.cos(heading), y + reach * math.sin(heading))]
            merits.append(reach - 25 * min(visits, 12) - 1.5 * abs(offset))
        best = int(np.argmax(merits))
        if best in range(5, 11) or self.rng.random() < 0.3:
            return set()
        return {"turn_left"} if best < 8 else {"turn_right"}

    def _turn_away(self) -> Iterator[set[str]]:
        """Turn to the side with more room, until there is some ahead."""
        left, right = self.view.distances[:8].mean(), self.view.distances[8:].mean()
        side = "turn_left" if left + self.rng.normal(0, 30) > right else "turn_right"
        for _ in range(int(self.rng.integers(2, 5))):
            yield {side} | ({"forward"} if self.rng.random() < 0.3 else set())
        for _ in range(12):
            if self.view.distances[6:10].min() > 1.5 * _NEAR:
                return
            yield {side}

    def _wander(self) -> Iterator[set[str]]:
        """Each pair of opposite buttons by itself, held for a random time."""
        pairs = (("forward", "backward", 0.4, 0.2), ("strafe_left", "strafe_right", 0.2, 0.2))
        pairs += (("turn_left", "turn_right", 0.2, 0.2),)
        held = [(frozenset(), 0)] * len(pairs)
        for _ in range(int(self.rng.integers(20, 70))):
            if self._close > 8:
                return (yield from self._turn_away())
            for index, (one, other, p_one, p_other) in enumerate(pairs):
                if held[index][1] == 0:
                    choice = self.rng.choice(3, p=(p_one, p_other, 1 - p_one - p_other))
                    buttons = frozenset(({one}, {other}, set())[choice])
                    held[index] = (buttons, int(self.rng.integers(2, 5 if index == 2 else 14)))
                held[index] = (held[index][0], held[index][1] - 1)
            yield set().union(*(buttons for buttons, _ in held))
            if self.rng.random() < 0.08:
                yield {"use"}

    def _look_around(self) -> Iterator[set[str]]:
        """Stand and turn one way, and often back by the same angle."""
        for _ in range(int(self.rng.integers(1, 3))):
            sides = ["turn_left", "turn_right"]
            self.rng.shuffle(sides)
            count, pause = int(self.rng.choice((3, 6, 6, 6, 12))), int(self.rng.integers(0, 5))
            yield from ({sides[0]} for _ in range(count))
            yield from (set() for _ in range(pause))
            if self.rng.random() < 0.7:
                yield from ({sides[1]} for _ in range(count))

    def _break_free(self) -> Iterator[set[str]]:
        """Out of a corner in which nothing moved for long: back and aside, and on in another direction."""
        side = "left" if self.rng.random() < 0.5 else "right"
        for _ in range(int(self.rng.integers(3, 8))):
            yield {"backward", f"strafe_{side}"}
        for _ in range(int(self.rng.integers(4, 13))):
            yield {f"turn_{side}"}
        for _ in range(int(self.rng.integers(6, 16))):
            yield {"forward"} | ({"use"} if self.rng.random() < 0.2 else set())

    def _step_along(self) -> Iterator[set[str]]:
        """Sideways, at times backwards or forwards as well, and back."""
        one, other = ("strafe_left", "strafe_right") if self.rng.random() < 0.5 else ("strafe_right", "strafe_left")
        along = [set(), {"forward"}, {"backward"}][self.rng.choice(3, p=(0.5, 0.15, 0.35))]
        for side in (one, other):
            for _ in range(int(self.rng.integers(4, 18))):
                if self._close > 10:
                    return (yield from self._turn_away())
                yield {side} | along

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return round(x / _CELL), round(y / _CELL)


# captions

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
_SEGMENT = 16  # frames that a caption describes at least
_SMALLEST = {True: 0.004, False: 0.006}  # share of the picture from which a monster, another object is worth a word


def captions(place: str, views: Sequence[View], actions: np.ndarray) -> list[tuple[float, str]]:
    """(second, caption) wherever the caption changes: the place, what is seen, what the player does.

    actions uint8 (T, 8), as in `Recording`; a caption describes the frames from its second to the next one's.
    """
    texts = []
    for start in range(0, len(views), _SEGMENT):
        end = min(start + _SEGMENT, len(views))
        if end - start < _SEGMENT // 2 and texts:  # too short for a text of its own
            texts.append((start, texts[-1][1]))
            continue
        scene = _scene(views[start:end])
        texts.append((start, f"{place}, {scene}: the player {_doing(views[start:end], actions[start:end])}"))
    return [(next(group)[0] / FPS, text) for text, group in groupby(texts, key=lambda item: item[1])]


def _scene(views: Sequence[View]) -> str:
    """The largest monster, else the largest object that has a name, else how much room is ahead."""
    for names in (MONSTERS, _OBJECTS):
        areas: dict[str, float] = defaultdict(float)
        for view in views:
            for seen in view.objects:
                if seen.name in names:
                    areas[names[seen.name]] = max(areas[names[seen.name]], seen.area)
        if areas and max(areas.values()) > _SMALLEST[names is MONSTERS]:
            return max(areas, key=areas.get)
    ahead = float(np.median([view.distances[4:12].mean() for view in views]))
    return "a wall in front" if ahead < 150 else "a room" if ahead < 500 else "an open view"


def _doing(views: Sequence[View], actions: np.ndarray) -> str:
    """In words, by what was pressed and how far that led."""
    pressed = dict(zip(ACTIONS, actions.mean(0), strict=True))
    turned = (pressed["turn_left"] - pressed["turn_right"]) * len(views) * TURN
    doing = []
    if max(pressed["forward"], pressed["backward"]) > 0.4:
        way = "forward" if pressed["forward"] > pressed["backward"] else "backward"
        far = math.dist(views[0].pose[:2], views[-1].pose[:2]) > 8 * len(views) or abs(turned) > 90
        doing.append(f"walks {way}" if far else "walks into a wall" if way == "forward" else "backs into a wall")
    if abs(pressed["strafe_left"] - pressed["strafe_right"]) > 0.35:
        doing.append("steps left" if pressed["strafe_left"] > pressed["strafe_right"] else "steps right")
    if abs(turned) >= 150:
        doing.append("turns around")
    elif abs(turned) >= 40:
        doing.append("turns left" if turned > 0 else "turns right")
    elif pressed["turn_left"] > 0.15 and pressed["turn_right"] > 0.15:
        doing.append("looks around")
    if pressed["shoot"] > 0.15:
        doing.append("shoots")
    return " and ".join(doing) or "stands still"


# files


def _write(video: Path, recording: Recording) -> None:
    """The video last: what has none is recorded again."""
    for name in ("actions", "poses"):
        buffer = io.BytesIO()
        np.save(buffer, getattr(recording, name))
        with write_whole(video.with_suffix(f".{name}.npy")) as file:
            file.write(buffer.getvalue())
    listed = [{"start": round(start, 3), "text": text} for start, text in recording.captions]
    with write_whole(video.with_suffix(".captions.json"), "w") as file:
        json.dump(listed, file, indent=1)
    with open_writer(video, FPS, recording.frames.shape[1:3]) as writer:
        writer.add(recording.frames)


def _write_spec(out: Path, config: RecordingConfig) -> None:
    """dataset.json: what the files mean. Raises PhenakiError where one of another seed or length is there."""
    spec = {
        "world": "doom",
        "fps": FPS,
        "size": list(_SIZE),
        "actions": [{"name": name, "kind": "button"} for name in ACTIONS],
        "poses": list(POSES),
        "degrees_per_turn": TURN,
        "seed": config.seed,
        "seconds": list(config.seconds),
        "scenarios": list(config.scenarios),
        "unseen_scenarios": list(config.unseen_scenarios),
        "engine": f"vizdoom {_vizdoom().__version__}",
    }
    path = out / "dataset.json"
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PhenakiError(f"'{path}' cannot be read: {error}. Record into another folder.") from error
        for key in spec:
            if before.get(key) != spec[key]:
                raise PhenakiError(
                    f"'{out}' holds a recording with {key} {before.get(key)}, not {spec[key]}: take another folder"
                )
        return
    with write_whole(path, "w") as file:
        json.dump(spec, file, indent=1)
