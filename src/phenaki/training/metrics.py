"""Metrics of a run: averaged over steps and processes, then printed and handed to the trackers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from phenaki.core.errors import PhenakiError
from phenaki.core.progress import format_duration, progress_bar
from phenaki.media.montage import contact_sheet, mosaic
from phenaki.media.writer import write_image, write_video
from phenaki.training.config import RunConfig
from phenaki.training.processes import Processes
from phenaki.training.track import Preview, ThroughputMeter, Tracker, open_trackers


class MetricsLogger:
    """The progress bar and the trackers of a run; the steps it is given count from 1.

    The main process prints and writes, the others only hand over their values.
    """

    def __init__(self, folder: Path, config: RunConfig, processes: Processes, device: torch.device):
        self._folder, self._config, self._processes = folder, config, processes
        self._recent: dict[str, list[float]] = {}
        self._trackers: list[Tracker] = []
        self._progress = progress_bar(details=True, visible=processes.is_main)
        self.throughput = ThroughputMeter(device, processes.count)

    @property
    def is_open(self) -> bool:
        """Whether the run has begun to record."""
        return bool(self._trackers)

    def start(self) -> None:
        self._task = self._progress.add_task("step", total=self._config.steps, details="")
        self._progress.start()

    def begin(self, step: int) -> None:
        """The loop begins after so many steps."""
        self._first, self._began = step, time.monotonic()
        self.throughput.reset()
        self.advance(step)

    def open_trackers(self, recipe: Mapping[str, Any], step: int) -> None:
        """Records of later steps are dropped: those steps run again."""
        self._trackers = open_trackers(self._config.trackers, self._folder, recipe, step)

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def stop(self) -> None:
        self._progress.stop()
        for tracker in self._trackers:
            tracker.close()

    def say(self, sentence: str) -> None:
        """Print a line above the progress bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def evaluating(self, step: int) -> Iterator[None]:
        """Says what the run does in the block, which may take a minute."""
        self._progress.update(self._task, description="evaluating")
        if self._progress.disable and self._processes.is_main:
            print(f"step {step}/{self._config.steps} evaluating (run.previews=false skips it)", file=sys.stderr)
        try:
            yield
        finally:
            self._progress.update(self._task, description="step")

    def add(self, values: Mapping[str, float]) -> None:
        """Values of a step, for the next `flush`."""
        for name, value in values.items():
            self._recent.setdefault(name, []).append(value)

    def flush(self, step: int, totals: Mapping[str, float]) -> None:
        """Record means over the steps and processes that have a value, `totals`, and the throughput; all call."""
        means = _means(self._processes.gather(self._recent)) | totals
        if self._processes.is_main:
            self._track(means | self.throughput.metrics(), step)
            self._print(means, step)
        self._recent.clear()

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Values of one step, to all trackers and the progress bar."""
        self._track(values, step)
        self._print(values, step)

    def alarm(self, name: str, sentence: str, step: int) -> None:
        if self._processes.is_main:
            self.say(f"step {step}: {name}: {sentence}")
            for tracker in self._trackers:
                tracker.alarm(name, sentence, step)

    def preview(self, name: str, preview: Preview, fps: float, step: int) -> None:
        """Write clips as name_STEP.png, frame by frame, and as name_STEP.mp4, and hand both to the trackers."""
        file = self._folder / f"{name}_{step:07d}.png"
        with self._tolerant(step):
            write_image(file, contact_sheet(preview.clips, columns=11, labels=preview.labels))
            write_video(file.with_suffix(".mp4"), mosaic(preview.clips), fps)
            for tracker in self._trackers:
                tracker.picture(name, file, step)
                tracker.video(name, file.with_suffix(".mp4"), step)

    def _track(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            with self._tolerant(step):
                tracker.metrics(values, step)

    @contextmanager
    def _tolerant(self, step: int) -> Iterator[None]:
        """Records that cannot be written, on a full disk for example, are missing; the training goes on."""
        try:
            yield
        except (OSError, PhenakiError) as error:
            self.say(f"not recorded at step {step}: {error}")

    def _print(self, values: Mapping[str, float], step: int) -> None:
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._progress.update(self._task, details=text)
        if self._progress.disable:
            rate = (step - self._first) / (time.monotonic() - self._began)
            left = format_duration((self._config.steps - step) / rate)
            line = f"step {step}/{self._config.steps} {text}, {rate:.2f} steps/s, {left} left"
            print(line, file=sys.stderr, flush=True)


def _means(processes: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in processes for name in values)
    joined = {name: [value for values in processes for value in values.get(name, ())] for name in names}
    return {name: sum(values) / len(values) for name, values in joined.items()}
