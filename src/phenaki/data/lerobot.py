"""Robot data sets of LeRobot, v2 and v3: an episode of one camera is a sample, with its task and its actions."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phenaki.core.actions import ActionSpec
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.reading import open_regular, read_regular
from phenaki.data.actions import to_npy
from phenaki.data.captions import TimedCaption, clean_captions
from phenaki.data.sample import EncodedSample
from phenaki.media.view import reading_errors

INFO = "meta/info.json"
ACTION, STATE, TASK = "action", "observation.state", "task_index"


class Episode(NamedTuple):
    """span: its seconds within the video; None: the video is its own."""

    index: int
    tasks: tuple[str, ...]
    video: Path
    table: Path
    span: tuple[float, float] | None


class LeRobot:
    """The episodes under `root`, as `Folder` has files.

    camera: key of a video feature, such as "observation.images.top"; "" takes the only one. The task is the caption,
    and each changes when the task does. Actions are levels, in the data's own units. LeRobot's action i leads from
    frame i to frame i + 1, so it is row i + 1. With `states`, those reached in each frame follow as further levels.

    Raises PhenakiError for a folder that holds no such data set, or another camera.
    """

    has_table = False
    unclaimed: tuple[str, ...] = ()
    other_endings: Counter[str] = Counter()

    def __init__(self, root: str | Path, camera: str = "", states: bool = False) -> None:
        self.root = Path(root)
        info = self._read_json(self.root / INFO)
        version = str(info.get("codebase_version", ""))
        if not version.startswith(("v2.", "v3.")):
            raise PhenakiError(
                f"'{self.root}' is a LeRobot data set of version {version or '?'}: v2 and v3 can be read"
            )
        self._is_v3 = version.startswith("v3.")
        self._info, self._features = info, info.get("features", {})
        try:
            self.camera = self._check_camera(camera)
            self._columns = [name for name in (ACTION, *([STATE] if states else [])) if name in self._features]
            if states and STATE not in self._columns:
                raise PhenakiError(f"'{self.root}' has no {STATE}: leave out the states")
            names = [name for column in self._columns for name in self._names(column)]
            self.actions = ActionSpec(tuple(names), ("level",) * len(names)) if names else None
            self._episodes = list(self._read_v3() if self._is_v3 else self._read_v2())
        except PhenakiError:
            raise
        except Exception as error:  # it depends on what is missing or of another type
            reason = f"{type(error).__name__}: {error}"
            raise PhenakiError(f"what '{self.root / 'meta'}' says cannot be read: {reason}") from error
        if not self._episodes:
            raise PhenakiError(f"'{self.root}' has no episodes")

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def joins_samples(self) -> bool:
        """Whether several samples lie in one file."""
        return self._is_v3

    def key(self, index: int) -> str:
        return f"episode_{self._episodes[index].index:06d}"

    def path(self, index: int) -> Path:
        return self._episodes[index].video

    def files(self, index: int) -> list[Path]:
        """All on which a sample depends."""
        episode = self._episodes[index]
        return [episode.video, episode.table, *([self.root / "meta/tasks.parquet"] if self._is_v3 else [])]

    def __getitem__(self, index: int) -> EncodedSample | BadSample:
        episode, key = self._episodes[index], self.key(index)
        try:
            return self._sample(episode, key)
        except PhenakiError as error:
            return BadSample(f"{key}: {error}")

    def _sample(self, episode: Episode, key: str) -> EncodedSample:
        with reading_errors():
            captions = clean_captions(episode.tasks)
            rows = self._rows(episode) if self.actions or len(captions) > 1 else {}
            timed = self._timed_captions(rows) if len(captions) > 1 else ()
            actions = to_npy(self._action_table(rows), self.actions) if self.actions else None
        words = {"timed_captions": timed} if timed else {"captions": captions}
        return EncodedSample(key, episode.video, ".mp4", **words, actions=actions, span=episode.span)

    def _action_table(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 (T, A): row i acts between frames i - 1 and i."""
        table = np.concatenate([rows[name].reshape(len(rows[name]), -1) for name in self._columns], axis=1)
        width = sum(self._width(name) for name in self._columns)
        if table.shape[1] != width:
            raise BadSample(f"its actions have {table.shape[1]} columns, and {INFO} says {width}")
        table = table.astype(np.float32)
        columns = self._width(ACTION) if ACTION in self._columns else 0
        table[1:, :columns] = table[:-1, :columns].copy()
        table[:1] = 0
        return table

    def _timed_captions(self, rows: Mapping[str, np.ndarray]) -> tuple[TimedCaption, ...]:
        tasks = rows[TASK]
        changes = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist()]
        if unknown := {int(tasks[at]) for at in changes} - set(self._tasks):
            raise BadSample(f"its task {min(unknown)} is not among the tasks of the data set")
        return tuple(TimedCaption(at / self._info["fps"], self._tasks[int(tasks[at])]) for at in changes)

    def _rows(self, episode: Episode) -> dict[str, np.ndarray]:
        """The columns of an episode's frames, in order."""
        columns = [*self._columns, TASK, "frame_index", "episode_index"]
        table = _read_columns(episode.table, tuple(columns))
        if missing := [name for name in columns if name not in table]:
            raise BadSample(f"'{episode.table}' has no column '{missing[0]}'")
        rows = np.flatnonzero(table["episode_index"] == episode.index)
        rows = rows[np.argsort(table["frame_index"][rows], kind="stable")]
        return {name: values[rows] for name, values in table.items()}

    # ---- what the data set says of itself

    def _check_camera(self, camera: str) -> str:
        videos = [name for name, feature in self._features.items() if feature.get("dtype") == "video"]
        if camera in videos or (not camera and len(videos) == 1):
            return camera or videos[0]
        if self._features.get(camera, {}).get("dtype") == "image":
            raise PhenakiError(f"the camera '{camera}' of '{self.root}' is stored as pictures: convert it to video")
        there = f"it has {', '.join(videos)}" if videos else "it has no video"
        raise PhenakiError(f"'{self.root}' has no camera '{camera}': {there}" if camera else f"name a camera: {there}")

    def _width(self, column: str) -> int:
        width = math.prod(map(int, self._features[column].get("shape", [1])))
        if not 1 <= width <= _MOST_COLUMNS:
            raise PhenakiError(f"'{self.root / INFO}' says that {column} has {width:,} numbers: 1 to {_MOST_COLUMNS}")
        return width

    def _names(self, column: str) -> list[str]:
        """Of the numbers in a column; those of states begin with "state."."""
        names = self._features[column].get("names")
        while isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}
            names = next(iter(names.values()))
        width, prefix = self._width(column), "" if column == ACTION else "state."
        if not isinstance(names, list) or len(names) != width or len(set(map(str, names))) < width:
            names = [f"{column.rpartition('.')[2]}_{index}" for index in range(width)]
        return [prefix + str(name) for name in names]

    @cached_property
    def _tasks(self) -> dict[int, str]:
        if self._is_v3:
            table = _read_parquet(self.root / "meta/tasks.parquet")
            text = next(name for name in ("task", "__index_level_0__", *table) if name in table and name != TASK)
            return dict(zip(map(int, table[TASK]), map(str, table[text]), strict=True))
        return {int(row[TASK]): str(row["task"]) for row in self._read_lines(self.root / "meta/tasks.jsonl")}

    def _read_v2(self) -> Iterator[Episode]:
        size = int(self._info.get("chunks_size", 1000))
        for row in self._read_lines(self.root / "meta/episodes.jsonl"):
            index = int(row["episode_index"])
            values = {"episode_chunk": index // size, "episode_index": index, "video_key": self.camera}
            paths = (self._file(template, values) for template in ("video_path", "data_path"))
            yield Episode(index, tuple(map(str, row.get("tasks", ()))), *paths, None)

    def _read_v3(self) -> Iterator[Episode]:
        video, data = f"videos/{self.camera}/", "data/"
        stamps = [f"{video}from_timestamp", f"{video}to_timestamp"]
        columns = ["episode_index", "tasks", *stamps, *(where + name for where in (video, data) for name in _INDICES)]
        for file in sorted((self.root / "meta/episodes").rglob("*.parquet")):
            table = _read_parquet(file, columns)
            if missing := [name for name in columns if name not in table]:
                raise PhenakiError(f"'{file}' has no column '{missing[0]}'")
            for values in zip(*(table[name] for name in columns), strict=True):
                row = dict(zip(columns, values, strict=True))
                paths = []
                for template, where in (("video_path", video), ("data_path", data)):
                    indices = {name: int(row[where + name]) for name in _INDICES}
                    paths.append(self._file(template, {"video_key": self.camera} | indices))
                start, end = (float(row[stamp]) for stamp in stamps)
                yield Episode(int(row["episode_index"]), tuple(map(str, row["tasks"])), *paths, (start, end))

    def _file(self, template: str, values: Mapping[str, Any]) -> Path:
        try:
            text = str(self._info[template])
            if strange := [field for field in re.findall(r"{.*?(?:}|$)", text) if not _FIELD.fullmatch(field)]:
                raise ValueError(f"{strange[0]} is no name with a width, such as {{episode_index:06d}}")
            path = Path(text.format(**values))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise PhenakiError(f"the {template} in '{self.root / INFO}' cannot be filled in: {error}") from error
        if path.is_absolute() or ".." in path.parts:
            raise PhenakiError(f"the {template} in '{self.root / INFO}' leaves the data set: {path}")
        return self.root / path

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(read_regular(path))
        except FileNotFoundError as error:
            raise PhenakiError(f"'{self.root}' is no LeRobot data set: it has no {INFO}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise PhenakiError(f"'{path}' cannot be read as JSON: {error}") from error
        if not isinstance(found, dict):
            raise PhenakiError(f"'{path}' holds no JSON object")
        return found

    def _read_lines(self, path: Path) -> list[dict[str, Any]]:
        try:
            lines = read_regular(path).decode().splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            raise PhenakiError(f"'{path}' cannot be read: {error}") from error


_INDICES = ("chunk_index", "file_index")
_MOST_COLUMNS = 1_000  # of actions and states
_MOST_VALUES = 50_000_000  # of a table of Parquet, which may take a few bytes there and gigabytes in memory
_FIELD = re.compile(r"{\w+(?::0?\d{0,2}d?)?}")  # of a path's template: others reach into objects, or fill memory


@lru_cache(maxsize=4)  # a table of v3 holds many episodes
def _read_columns(path: Path, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of a table of frames; those that it lacks are left out."""
    try:
        return {name: np.array(list(values)) for name, values in _read_parquet(path, columns).items()}
    except PhenakiError as error:
        raise BadSample(str(error)) from error


def _read_parquet(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PhenakiError(f"'{path}' is Parquet, for which pip install \"phenaki[data]\" is needed.") from error
    try:
        with open_regular(path) as raw, parquet.ParquetFile(raw) as file:
            wanted = [name for name in file.schema_arrow.names if columns is None or name in columns]
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            values = sum(group.column(index).num_values for group in groups for index in range(group.num_columns))
            if values > _MOST_VALUES:
                raise PhenakiError(f"'{path}' has {values:,} values, more than the limit of {_MOST_VALUES:,}.")
            return dict(file.read(wanted).to_pydict())
    except (pyarrow.ArrowException, OSError) as error:
        raise PhenakiError(f"'{path}' cannot be read as Parquet: {error}.") from error
