"""Trackers of a run's metrics, pictures and videos: metrics.jsonl, TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic
from phenaki.media.convert import Frames
from phenaki.training.runs import METRICS, read_record

TrackerName = Literal["tensorboard", "wandb"]
_WANDB_ID = "wandb_id"
_WANDB_TIMEOUT = 30  # seconds
_OFFLINE = "set WANDB_MODE=offline and upload the run later with `wandb sync`"
_WITHOUT = "remove wandb from run.trackers"


class Preview(NamedTuple):
    """Clips uint8 (T, H, W, 3) of one size, with a label each or none."""

    clips: list[Frames]
    labels: list[str] | None = None


class Tracker:
    """A destination of records. Steps count from 1; a tracker ignores what it cannot show."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Values of a step by name, which may have a group, as in test/psnr."""

    def alarm(self, name: str, sentence: str, step: int) -> None:
        """A problem at a step."""

    def picture(self, name: str, file: Path, step: int) -> None:
        """A PNG file that the run has written."""

    def video(self, name: str, file: Path, step: int) -> None:
        """An mp4 file that the run has written."""

    def close(self) -> None:
        """No more records follow."""


class Metrics(Tracker):
    """A line of JSON for each record. Lines after `step` are removed, as those steps run again: after a hard kill the
    file is ahead of the checkpoint, and may end in half a line."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / METRICS
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if (record := read_record(line)) and record["step"] <= step]
        if len(kept) < len(lines):
            with write_atomic(self._path, "w") as file:
                file.writelines(kept)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._write(step, {name: float(f"{value:.5g}") for name, value in values.items()})

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._write(step, {"alarm": name, "sentence": sentence})

    def _write(self, step: int, content: dict[str, Any]) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1)} | content) + "\n")


class TensorBoard(Tracker):
    """Curves, alarms as text, and pictures; records after `step` are hidden. No videos: they would need moviepy."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=step + 1)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._writer.add_text(f"alarm/{name}", sentence, step)

    def picture(self, name: str, file: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        self._writer.add_image(name, np.asarray(Image.open(file)), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run in the project $WANDB_PROJECT, or "phenaki"; resumed runs keep their id. $WANDB_MODE=offline writes to the
    folder only, for `wandb sync`."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]):
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "phenaki"),
                name=folder.resolve().name,
                dir=folder,
                config=dict(recipe),
                id=_wandb_id(folder),
                resume="allow",
                settings=wandb.Settings(init_timeout=_WANDB_TIMEOUT),
            )
        except wandb.errors.Error as error:
            raise _unreachable(error) from error

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._run.alert(title=name, text=sentence)

    def picture(self, name: str, file: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(file))}, step=step)

    def video(self, name: str, file: Path, step: int) -> None:
        self._run.log({f"{name}_video": self._wandb.Video(str(file), format="mp4")}, step=step)

    def close(self) -> None:
        self._run.finish()


def _unreachable(error: Exception) -> PhenakiError:
    return PhenakiError(f"wandb cannot be reached ({str(error).splitlines()[0]}): {_OFFLINE}, or {_WITHOUT}")


def _wandb_id(folder: Path) -> str:
    """The id of the run in the folder, made up when it starts."""
    path = folder / _WANDB_ID
    if not path.exists():
        with write_atomic(path, "w") as file:
            file.write(secrets.token_hex(8))
    return path.read_text()


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise PhenakiError, before a run begins, if wandb is named and cannot be used. Never prompts."""
    if "wandb" not in names:
        return
    if importlib.util.find_spec("wandb") is None:
        raise PhenakiError(
            f"run.trackers names wandb, which is not installed: pip install 'phenaki[wandb]', or {_WITHOUT}"
        )
    import wandb

    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
    try:
        usable = offline or wandb.login(prompt=False)  # which asks the server
    except wandb.errors.Error as error:
        raise _unreachable(error) from error
    if not usable:
        raise PhenakiError(
            "run.trackers names wandb, which has no key: run `wandb login`, or set WANDB_API_KEY, or "
            f"{_OFFLINE}, or {_WITHOUT}"
        )


def open_trackers(names: Sequence[TrackerName], folder: Path, recipe: Mapping[str, Any], step: int) -> list[Tracker]:
    """metrics.jsonl and the named trackers, for a run in `folder` that continues after `step`.

    TensorBoard is skipped if it is not installed. Raises PhenakiError if wandb cannot be reached.
    """
    others: list[Tracker] = []
    if "wandb" in names:  # the first, as it alone may fail
        others.append(WandB(folder, recipe))
    if "tensorboard" in names and importlib.util.find_spec("tensorboard") is not None:
        others.append(TensorBoard(folder, step))
    return [Metrics(folder, step), *others]


class ThroughputMeter:
    """Throughput of all processes of a run, and the memory of this one."""

    def __init__(self, device: torch.device, world_size: int):
        self._device, self._world_size = device, world_size
        self.reset()

    def reset(self) -> None:
        """Start counting from now."""
        self._start, self._waited, self._clips = time.perf_counter(), 0.0, 0

    def next(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time and its clips are counted."""
        asked = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - asked
        self._clips += len(batch["captions"])
        return batch

    def metrics(self) -> dict[str, float]:
        """Since the last call: clips per second and the fraction of time spent waiting for data; since the start: peak
        memory in GB, of the GPU, else of the process."""
        taken = time.perf_counter() - self._start
        metrics = {
            "speed/clips_per_second": self._world_size * self._clips / taken,
            "speed/waiting_for_data": self._waited / taken,
            "speed/memory_gb": peak_memory(self._device) / 1e9,
        }
        self.reset()
        return metrics


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on the GPU, else that this process had in memory; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
