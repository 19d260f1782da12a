"""Data sets in the formats of LeRobot v2.1 and v3: two cameras, and a square that moves by the actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from phenaki.media.writer import write_video

FPS, SIDE, CAMERA, OTHER = 10, 32, "observation.images.top", "observation.images.wrist"
TASKS = ("push the square", "let it go")


def episode(index: int, frames: int) -> dict[str, np.ndarray]:
    """Frames uint8 (T, H, W, 3), action and state float32 (T, 2): action i moves the square from frame i to i + 1."""
    rng = np.random.default_rng(index)
    action = rng.integers(-3, 4, (frames, 2)).astype(np.float32)
    state = np.zeros((frames, 2), np.float32)
    video = np.full((frames, SIDE, SIDE, 3), 40 + 10 * (index % 4), np.uint8)
    place = np.array([12, 12])
    for i in range(frames):
        state[i] = place
        video[i, place[0] : place[0] + 8, place[1] : place[1] + 8] = (220, 40 * (index % 5), 60)
        place = np.clip(place + action[i].astype(int), 0, SIDE - 8)
    tasks = np.zeros(frames, np.int64) if index % 2 == 0 else (np.arange(frames) >= frames // 2).astype(np.int64)
    return {"video": video, "action": action, "observation.state": state, "task_index": tasks}


def lengths(episodes: int) -> list[int]:
    return [13 + 2 * (index % 3) for index in range(episodes)]


def _info(version: str, paths: dict[str, str], episodes: int) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [2]}
    video = {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]}
    features = {
        "action": vector | {"names": {"motors": ["down", "right"]}},
        "observation.state": vector | {"names": ["down", "right"]},
        CAMERA: video,
        OTHER: video,
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    sizes = {"total_episodes": episodes, "fps": FPS, "chunks_size": 1000}
    return {"codebase_version": version, "robot_type": "square", "features": features} | sizes | paths


def _rows(index: int, made: dict[str, np.ndarray]) -> dict[str, Any]:
    frames = len(made["action"])
    return {
        "action": made["action"].tolist(),
        "observation.state": made["observation.state"].tolist(),
        "timestamp": (np.arange(frames) / FPS).tolist(),
        "frame_index": list(range(frames)),
        "episode_index": [index] * frames,
        "task_index": made["task_index"].tolist(),
    }


def _tasks(made: dict[str, np.ndarray]) -> list[str]:
    return [TASKS[task] for task in np.unique(made["task_index"])]


def write_table(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def _write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, FPS)


def write_v2(root: Path, episodes: int) -> Path:
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_info("v2.1", paths, episodes)))
    lines = []
    for index, frames in enumerate(lengths(episodes)):
        made = episode(index, frames)
        write_table(root / f"data/chunk-000/episode_{index:06d}.parquet", _rows(index, made))
        for camera in (CAMERA, OTHER):
            video = made["video"] if camera == CAMERA else 255 - made["video"]
            _write_video(root / f"videos/chunk-000/{camera}/episode_{index:06d}.mp4", video)
        lines.append({"episode_index": index, "tasks": _tasks(made), "length": frames})
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [{"task_index": number, "task": task} for number, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    return root


def write_v3(root: Path, episodes: int, per_file: int = 8) -> Path:
    """Several episodes in a file, of videos and of frames."""
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_info("v3.0", paths, episodes)))
    write_table(root / "meta/tasks.parquet", {"task_index": [0, 1], "__index_level_0__": list(TASKS)})
    entries = []
    sizes = lengths(episodes)
    for file, first in enumerate(range(0, episodes, per_file)):
        indices = range(first, min(episodes, first + per_file))
        made = [episode(index, sizes[index]) for index in indices]
        rows = [_rows(index, each) for index, each in zip(indices, made, strict=True)]
        joined = {name: [value for each in rows for value in each[name]] for name in rows[0]}
        write_table(root / f"data/chunk-000/file-{file:03d}.parquet", joined)
        video = np.concatenate([each["video"] for each in made])
        _write_video(root / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4", video)
        _write_video(root / f"videos/{OTHER}/chunk-000/file-{file:03d}.mp4", 255 - video)
        begin = 0
        for index, each in zip(indices, made, strict=True):
            entry = {"episode_index": index, "tasks": _tasks(each), "length": sizes[index]}
            entry |= {"data/chunk_index": 0, "data/file_index": file}
            for camera in (CAMERA, OTHER):
                entry |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
                entry[f"videos/{camera}/from_timestamp"] = begin / FPS
                entry[f"videos/{camera}/to_timestamp"] = (begin + sizes[index]) / FPS
            begin += sizes[index]
            entries.append(entry)
    write_table(
        root / "meta/episodes/chunk-000/file-000.parquet", {name: [e[name] for e in entries] for name in entries[0]}
    )
    return root
