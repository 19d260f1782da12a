"""The engine (ZDoom, by the package vizdoom): one game, stepped a frame at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from phenaki.core.errors import PhenakiError
from phenaki.worlds.doom.scenarios import Scenario

if TYPE_CHECKING:
    import vizdoom

ACTIONS = ("forward", "backward", "strafe_left", "strafe_right", "turn_left", "turn_right", "shoot", "use")
POSES = ("x", "y", "z", "angle", "health", "ammo", "kills", "distance")
"""Map units (3), degrees counter-clockwise from east, percent, rounds, count, map units to the surface ahead."""
TICS = 4  # of the engine per frame
FPS = 35 / TICS
TURN = 15.0  # degrees per frame with a turn button held: six frames make a right angle
FRAME_SIZE = (120, 160)

_RENDER_SIZE = (240, 320)  # averaged over 2 x 2 pixels, as distant textures would flicker otherwise
_COLUMNS = 16  # of the picture, for `Observation.distances`
_PISTOL = 2  # its number in the engine
_DEPTH_UNIT = 7.3  # map units per step of the depth buffer
_WARM_UP = 8  # frames before the first one that is kept: the weapon is raised, monsters wake up
_SETTINGS = (
    "+movebob 0 +stillbob 0",  # neither view nor weapon bob while walking
    "+sv_infiniteammo 1 +neverswitchonpickup 1",
    "+cl_showsecretmessage 0 +con_midtime 0",  # no text in the picture
)


class VisibleObject(NamedTuple):
    """name: the engine's. column: of its centre, -1 (left) to 1 (right). area: fraction of the picture."""

    name: str
    column: float
    area: float


class Observation(NamedTuple):
    """frame uint8 (120, 160, 3). pose: POSES. distances (16,): free map units by column, left to right."""

    frame: np.ndarray
    pose: tuple[float, ...]
    distances: np.ndarray
    objects: tuple[VisibleObject, ...]


class Game:
    """A scenario from a random start. The player cannot die and holds a pistol that never runs empty.

    No status bar, no bobbing, no colour flashes: the red picture of a hurt player shows nothing of the map. In half of
    the games, monsters do not attack.
    """

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        peaceful = rng.random() < 0.5
        self._game = _start_engine(scenario, seed=int(rng.integers(2**31)))
        self.step(frozenset())  # scripts of some levels take all weapons on the first frame
        for command in ("god", "give pistol", "use pistol", *(["notarget"] if peaceful else [])):
            self._game.send_game_command(command)
            self.step(frozenset())  # commands take effect one frame later
        if not scenario.wad:
            self._warp(rng)
        for _ in range(_WARM_UP):
            self.step(frozenset())

    def observe(self) -> Observation | None:
        """None once the level has ended."""
        state = self._game.get_state()
        if state is None:
            return None
        height, width = _RENDER_SIZE
        objects = tuple(
            VisibleObject(
                label.object_name,
                (2 * label.x + label.width) / width - 1,
                label.width * label.height / (height * width),
            )
            for label in state.labels
            if label.object_name != "DoomPlayer"
        )
        rows = state.depth_buffer[height // 2 - 6 : height // 2 + 30 : 4, ::4]
        distances = np.median(rows.reshape(len(rows), _COLUMNS, -1), axis=(0, 2)) * _DEPTH_UNIT
        pose = (*map(float, state.game_variables), float(distances[6:10].mean()))
        return Observation(np.asarray(Image.fromarray(state.screen_buffer).reduce(2)), pose, distances, objects)

    def step(self, pressed: Set[str]) -> Observation | None:
        """The next frame, with these of ACTIONS held. None once the level has ended."""
        if self._game.is_episode_finished():
            return None
        held = {name: float(name in pressed) for name in ACTIONS}
        turn = (held["turn_right"] - held["turn_left"]) * TURN / TICS
        moves = [held[name] for name in ACTIONS[:4]]
        self._game.make_action([*moves, turn, held["shoot"], held["use"]], TICS)
        if self._game.is_episode_finished():
            return None
        if self._game.get_game_variable(_vizdoom().GameVariable.SELECTED_WEAPON) != _PISTOL:  # a pickup gave fists
            self._game.send_game_command("use pistol")
        return self.observe()

    def close(self) -> None:
        self._game.close()

    def _warp(self, rng: np.random.Generator) -> None:
        """To a random object and a random angle, as levels always begin at one spot; again if nothing moves there."""
        state = self._game.get_state()
        spots = [(thing.position_x, thing.position_y) for thing in state.objects] if state else []
        for index in rng.permutation(len(spots))[:8]:
            self._game.send_game_command(f"warp {spots[index][0]:.0f} {spots[index][1]:.0f}")
            for _ in range(int(rng.integers(24))):
                self.step({"turn_left"})
            before = self.step(frozenset())
            after = [self.step({"forward"}) for _ in range(3)][-1]
            if before is None or after is None or math.dist(before.pose[:2], after.pose[:2]) > 40:
                return


def engine_version() -> str:
    """Such as "vizdoom 1.3.2". Raises PhenakiError without vizdoom."""
    return f"vizdoom {_vizdoom().__version__}"


def _vizdoom() -> ModuleType:
    try:
        import vizdoom
    except ImportError as error:
        raise PhenakiError('Recording Doom needs the package vizdoom: pip install "phenaki[doom]".') from error
    return vizdoom


def _start_engine(scenario: Scenario, seed: int) -> vizdoom.DoomGame:
    vizdoom = _vizdoom()
    package = Path(vizdoom.__file__).parent
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    if scenario.wad:
        game.set_doom_scenario_path(str(package / "scenarios" / scenario.wad))
    game.set_doom_config_path(os.devnull)  # else settings are read from and written to the working directory
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
    game.set_render_decals(False)  # bullet holes are ZDoom's own pictures, not Freedoom's
    game.set_depth_buffer_enabled(True)
    game.set_labels_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    button, variable = vizdoom.Button, vizdoom.GameVariable
    moves = [button.MOVE_FORWARD, button.MOVE_BACKWARD, button.MOVE_LEFT, button.MOVE_RIGHT]
    game.set_available_buttons([*moves, button.TURN_LEFT_RIGHT_DELTA, button.ATTACK, button.USE])
    position = [variable.POSITION_X, variable.POSITION_Y, variable.POSITION_Z, variable.ANGLE]
    game.set_available_game_variables(
        [*position, variable.HEALTH, variable.SELECTED_WEAPON_AMMO, variable.KILLCOUNT]  # POSES but the last
    )
    game.add_game_args(" ".join(_SETTINGS))
    game.set_mode(vizdoom.Mode.PLAYER)
    leftover = Path("_vizdoom")  # an empty folder that the engine makes in the working directory
    existed = leftover.exists()
    try:
        game.init()
    except (vizdoom.ViZDoomErrorException, vizdoom.ViZDoomUnexpectedExitException) as error:
        level = f"{scenario.level} of {scenario.wad or 'freedoom2.wad'}"
        raise PhenakiError(f"vizdoom does not start {level}: {error}") from error
    finally:
        if not existed:
            with suppress(OSError):
                leftover.rmdir()
    return game
