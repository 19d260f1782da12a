"""Which run a folder holds, and whether a new one may resume it or replace it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from phenaki.core.config import changes, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import parse_json_object
from phenaki.core.reading import read_regular
from phenaki.training import checkpoints
from phenaki.training.checkpoints import Checkpoints

# Keys that may change when a run resumes, as they leave its updates as they are.
_FREE = {f"run.{key}" for key in ("steps", "device", "log_every", "eval_every", "previews", "checkpoint_every")}
_FREE |= {f"run.{key}" for key in ("trackers", "prompts", "keep", "keep_every", "bad_steps", "timeout")}
_FREE |= {"run.checkpointing", "run.compile", "run.strategy"}
_FREE |= {"data.max_bad_fraction", "data.validation", "loss.lpips_weights", "loss.i3d_weights"}
_FREE_SECTIONS = ("optimizer", "loss", "run", "sampling")  # may differ where --resume names a checkpoint
_WRITTEN = ("recipe.json", "metrics.jsonl", "state.json", "words.txt", "wandb_id", "events.out.tfevents.*")
_WRITTEN += ("*_[0-9][0-9]*.png", "*_[0-9][0-9]*.mp4")


class ResumePolicy:
    """Decides what a run starts from.

    `resume`: "auto" takes the newest checkpoint in the folder, if there is one, "never" starts from scratch, a path
    takes that checkpoint. `frozen`: fingerprints, by name, of the networks that the run builds on.

    Raises PhenakiError for a folder with a run of another recipe, or with any run if `resume` is "never", unless
    `overwrite` is set: then `replaces` is True, and that run is to be removed.
    """

    def __init__(self, folder: Path, recipe: Any, frozen: Mapping[str, str], resume: str, overwrite: bool):
        self._folder, self._resume = folder, resume
        self.frozen = dict(frozen)
        self.recipe = _plain(recipe)
        self._config = recipe
        self._named = resume not in ("auto", "never")
        self.replaces = self._check_folder(overwrite)

    def _check_folder(self, overwrite: bool) -> bool:
        path = self._folder / "recipe.json"
        if not path.exists():
            return False
        own = self._named and Path(self._resume).resolve().is_relative_to(self._folder.resolve())
        try:
            if self._resume == "never" or (self._named and not own):
                raise PhenakiError(f"the folder '{self._folder}' already holds a run: name another one")
            if changed := self._changed(_read_recipe(path)):
                raise PhenakiError(
                    f"the run in {self._folder} was started with another recipe (changed: {'; '.join(changed)}): "
                    "name another folder, or keep the recipe"
                )
        except PhenakiError as error:
            if not overwrite:
                raise PhenakiError(f"{error}, or remove that run with --overwrite") from None
            if own:
                raise PhenakiError(
                    f"--overwrite would remove '{self._resume}' together with its run: name another folder"
                ) from error
            return True
        return False

    def find(self, found: Checkpoints) -> Iterator[checkpoints.Content]:
        """The checkpoints to resume from, of which the first that can be used is taken."""
        if self._named:
            yield checkpoints.read(Path(self._resume))
        elif not self.replaces:
            yield from found.intact()

    def check(self, saved: dict[str, Any], state: Mapping[str, Any]) -> None:
        """Raise PhenakiError for the checkpoint of another recipe, or of a run that builds on other networks."""
        if saved["frozen"].keys() != self.frozen.keys():
            self.refuse("it belongs to another stage")
        for name, fingerprint in self.frozen.items():
            if saved["frozen"][name] != fingerprint:
                raise PhenakiError(
                    f"the run in {self._folder} builds on another {name}: name that one, or another folder"
                )
        if changed := self._changed(saved["recipe"], _FREE_SECTIONS if self._named else ()):
            self.refuse(f"it belongs to another recipe (changed: {'; '.join(changed)})")
        if saved["state"].keys() != state.keys():
            self.refuse("it has other networks")

    @property
    def takes_older(self) -> bool:
        """Whether a checkpoint that cannot be used is passed over for an older one."""
        return not self._named

    def refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        path = self._folder if self._resume == "auto" else self._resume
        raise PhenakiError(
            f"the checkpoint in '{path}' does not fit this run: {why}. Keep its recipe, or name another checkpoint"
        ) from error

    def summary(self, path: Path, saved: Mapping[str, Any]) -> str:
        """What the run goes on from, and the settings that differ from those of its checkpoint."""
        changed = self._changed(saved["recipe"], keys=set())
        note = f" with other settings ({'; '.join(changed)})" if changed else ""
        steps = self.recipe["run"]["steps"]
        done = f"; it is complete: raise run.steps above {steps}" if saved["step"] >= steps else ""
        return f"resuming after step {saved['step']:,}, from '{path}'{note}{done}"

    def _changed(self, before: dict[str, Any], free: Sequence[str] = (), keys: Set[str] = _FREE) -> list[str]:
        """How this recipe differs from an earlier one, free sections and keys aside."""
        if not all(isinstance(before.get(name, value), type(value)) for name, value in self.recipe.items()):
            return ["its sections are damaged"]
        before = _settings(_completed(before, self._config))
        return [
            f"{name} from {old} to {new}"
            for setting, value in _settings(self.recipe).items()
            if setting.partition(".")[0] not in free and setting not in keys
            for name, old, new in changes(before.get(setting), value, setting)
        ]


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all sections as `section.key`, and those that are in none."""
    settings: dict[str, Any] = {}
    for name, value in recipe.items():
        settings |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return settings


def _section(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = recipe.get(name)
    return section if isinstance(section, dict) else {}


def _read_recipe(path: Path) -> dict[str, Any]:
    """The recipe.json of a run."""
    try:
        recipe = parse_json_object(read_regular(path, 2**24), f"'{path}'")
        if not isinstance(recipe.get("run"), dict):
            raise PhenakiError(f"'{path}' is not the recipe of a run")
    except (OSError, PhenakiError) as error:
        raise PhenakiError(f"{error} Remove it to resume: the checkpoints hold the recipe too") from error
    return recipe


def remove_run(folder: Path) -> None:
    """Remove the records and checkpoints of a run; the weights it exported stay until they are overwritten."""
    for path in [path for pattern in _WRITTEN for path in folder.glob(pattern)]:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / checkpoints.FOLDER, ignore_errors=True)


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as it is read back from JSON."""
    return json.loads(json.dumps(to_dict(config)))


def _completed(before: Any, config: Any) -> Any:
    """Settings of an older version with today's keys: a key that did not exist yet acted as its default does."""
    if isinstance(before, list) and isinstance(config, (tuple, list)) and config:
        return [_completed(item, config[0]) for item in before]
    if not (isinstance(before, dict) and is_dataclass(config)):
        return before
    return {
        field.name: _completed(before[field.name], getattr(config, field.name))
        if field.name in before
        else _default(field)
        for field in fields(config)
    }


def _default(field: Field) -> Any:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if default is MISSING:
        return None
    return _plain(default) if is_dataclass(default) else json.loads(json.dumps(default, default=str))
