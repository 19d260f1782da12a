"""What surrounds the updates of a run: its folder, processes, checkpoints, metrics, progress bar and Ctrl-C."""

from __future__ import annotations

import atexit
import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import TextColumn
from torch import Tensor

from phenaki.config import to_dict
from phenaki.errors import PhenakiError
from phenaki.files import write_whole, writing
from phenaki.precision import Precision, best_device
from phenaki.progress import progress_bar

BAD_SAMPLES = "bad_samples.txt"
_SHOWN_BAD = 10
_MAY_CHANGE = {f"run.{key}" for key in ("steps", "device", "log_every", "picture_every", "checkpoint_every")}
_MAY_CHANGE |= {"data.bad_share", "data.validation", "loss.lpips_weights", "loss.i3d_weights"}


@dataclass(frozen=True)
class RunConfig:
    """How long and how often. `device` "auto" takes CUDA where there is one.

    `precision` is that of the networks that are trained. A frozen tokenizer encodes, and pictures are made, in the
    precision in which users will run them.
    """

    steps: int = 1000
    seed: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    log_every: int = 10
    picture_every: int = 500
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "picture_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise PhenakiError(f"run.{name} {getattr(self, name)} must be 1 or more")


class Run:
    """One training run in a folder: `with Run(...) as run: for step in run.steps(): ...`.

    The folder holds recipe.json, checkpoint.pt (the newest), metrics.jsonl, TensorBoard files and pictures. Every
    random draw of a step comes from `run.rng(step)`, so that a checkpoint needs no random state. `frozen`: the
    fingerprints, by name, of the networks that a second stage builds on; a checkpoint of others is refused.
    """

    def __init__(self, folder: str | Path, config: RunConfig, recipe: Any, frozen: Mapping[str, str] | None = None):
        self.folder, self.config = Path(folder), config
        self.rank, self.world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = _device(config.device)
        self.step = 0
        self._stop = False
        self._failure = ""
        self._recent: dict[str, list[float]] = {}
        self._left_out: set[str] = set()
        self._tensorboard: Any = None
        self._frozen = dict(frozen or {})
        self._recipe = json.loads(json.dumps(to_dict(recipe)))
        self._check_recipe(recipe)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def _check_recipe(self, recipe: Any) -> None:
        """A folder belongs to one recipe; what leaves the updates as they are may change."""
        path = self.folder / "recipe.json"
        if not path.exists():
            return
        before = json.loads(path.read_text())
        defaults = {room: to_dict(type(getattr(recipe, room))()) for room in self._recipe}
        before = _completed(before, json.loads(json.dumps(defaults)))
        changed = [
            f"{room}.{key} from {before[room].get(key)} to {value}"
            for room, values in self._recipe.items()
            for key, value in values.items()
            if before[room].get(key) != value and f"{room}.{key}" not in _MAY_CHANGE
        ]
        if changed:
            raise PhenakiError(
                f"the run in {self.folder} was started with another recipe (changed: {'; '.join(changed)}): "
                "name another folder, or keep the recipe"
            )

    def __enter__(self) -> Run:
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        if self.is_main:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        self._group = self.world_size > 1 and not dist.is_initialized()  # whether it is this run's own
        if self._group:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self._progress = progress_bar(TextColumn("{task.fields[losses]}"), shown=self.is_main)
        self._task = self._progress.add_task("step", total=self.config.steps, losses="")
        self._progress.start()
        self._left_out = self._bad_names()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self.world_size > 1 and error is None:
            dist.barrier()
            if self._group:  # not before the process ends: another run in it goes on with the group
                atexit.register(dist.destroy_process_group)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def rng(self, step: int) -> torch.Generator:
        """The source of all randomness of a step, on the CPU: a function of seed, step and rank alone."""
        seed = (self.config.seed * 1_000_003 + step) * 65_537 + self.rank
        return torch.Generator().manual_seed(seed % 2**63)

    @contextmanager
    def initializing(self) -> Iterator[None]:
        """Weights made in this block follow from the seed; the global random state stays as it was.

        torch's initialisers draw from that state alone. They are to run on the CPU, before `.to(run.device)`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            yield

    # ---- checkpoints

    def restore(self, parts: dict[str, Any]) -> None:
        """Load the newest checkpoint, where there is one, into the parts (each with load_state_dict).

        All processes get the one that the main process finds: the others may be on machines that do not see its disk.
        """
        path = self.folder / "checkpoint.pt"
        content = self._from_main(path.read_bytes() if self.is_main and path.exists() else None)
        if content is None:
            return
        try:
            saved = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        except Exception as error:
            raise PhenakiError(f"the checkpoint {path} cannot be read ({error}): delete it to start anew") from error
        for name, fingerprint in self._frozen.items():
            if saved["frozen"][name] != fingerprint:
                raise PhenakiError(
                    f"the run in {self.folder} builds on another {name}: name that one, or another folder"
                )
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        self.step = saved["step"]

    def save(self, parts: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all. All processes call: the data's state is of each of them."""
        states = {name: part.state_dict() for name, part in parts.items()}
        if self.is_main:
            self._check_finite(states)
            state = {"step": self.step, "parts": states, "frozen": self._frozen}
            buffer = io.BytesIO()  # torch.save's own writer hides the system's errors, such as a full disk
            torch.save(state, buffer)
            with write_whole(self.folder / "checkpoint.pt") as file:
                file.write(buffer.getbuffer())

    def _check_finite(self, states: dict[str, Any]) -> None:
        """Raise PhenakiError for weights that no training can go on from: the newest checkpoint stays as it is."""
        for name, state in states.items():
            tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                raise PhenakiError(f"the {name} is not finite after step {self.step}: {self._way_back()}")

    def _way_back(self) -> str:
        """What to do about a run that is broken, with the checkpoint from before it was."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return "there is no checkpoint yet; start anew with a lower optimizer.lr"
        return f"copy the last good checkpoint, {path}, to a new folder and go on there with a lower optimizer.lr"

    # ---- the loop

    def steps(self, parts: dict[str, Any], prepare: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Yield the steps that remain; saves a checkpoint every so often, at the end, and on Ctrl-C.

        `prepare` is called before each step. Where it raises PhenakiError in one process, all save and raise it.
        """
        if self.is_main:
            self._open_records()
        self._first, self._began = self.step, time.monotonic()
        self._progress.update(self._task, completed=self.step)
        while self.step < self.config.steps and not self._stopped(prepare):
            yield self.step
            self.step += 1
            self._progress.update(self._task, completed=self.step)
            if self.step % self.config.checkpoint_every == 0:
                self.save(parts)
        failures = self._failures()
        if self.step > self._first or not failures:
            self.save(parts)
        if self.is_main:
            self._summarize()
        if failures:
            raise PhenakiError(failures[0])

    def _summarize(self) -> None:
        if bad := self._bad_names():
            where = self.folder / BAD_SAMPLES
            self._say(f"{len(bad)} samples could not be used and were left out; they are named in {where}")
        if self._stop:
            self._say(f"stopped at step {self.step}; the same command goes on from there")

    def _say(self, sentence: str) -> None:
        """A line above the progress bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _open_records(self) -> None:
        """Write the recipe, and take back what was recorded of steps that are about to be run again.

        After a hard kill metrics and TensorBoard go further than the checkpoint, and may end in half a line.
        """
        with write_whole(self.folder / "recipe.json", "w") as file:
            json.dump(self._recipe, file, indent=2)
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
            if len(kept) < len(lines):
                with write_whole(metrics, "w") as file:
                    file.writelines(kept)
        self._tensorboard = _tensorboard(self.folder, first=self.step + 1)

    def _stopped(self, prepare: Callable[[], None]) -> bool:
        """Whether any process was asked to stop, or cannot go on: all leave the loop at the same step."""
        try:
            prepare()
        except PhenakiError as error:
            self._failure = str(error)
        stop = self._stop or bool(self._failure)
        if self.world_size == 1:
            return stop
        flag = torch.tensor(int(stop), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def _failures(self) -> list[str]:
        """Why processes cannot go on, of all of them; for all to call."""
        failures = [self._failure] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(failures, self._failure)
        return [failure for failure in failures if failure]

    def due(self, every: int) -> bool:
        """Whether the step now running is the last of `every`, or of the run; on the main process only."""
        return self.is_main and ((self.step + 1) % every == 0 or self.step + 1 == self.config.steps)

    def log(self, **values: float) -> None:
        """Record the step's values; every `log_every` steps their means go to metrics.jsonl, TensorBoard and the bar.

        A mean is over the steps that have the value. Raises PhenakiError as `check_finite` does.
        """
        self.check_finite(values)
        if not self.is_main:
            return
        for name, value in values.items():
            self._recent.setdefault(name, []).append(value)
        if self.due(self.config.log_every):
            self.record({name: sum(recent) / len(recent) for name, recent in self._recent.items()})
            self._recent.clear()

    def check_finite(self, values: Mapping[str, float]) -> None:
        """Raise PhenakiError when a loss or a gradient's norm (`...loss`, `...grad_norm`) is not finite.

        The newest checkpoint stays as it is.
        """
        for name, value in values.items():
            if name.endswith(("loss", "grad_norm")) and not math.isfinite(value):
                raise PhenakiError(f"the {name} became {value} at step {self.step}: {self._way_back()}")

    def alarm(self, name: str, sentence: str) -> None:
        """Say what goes wrong at the step now running: on the screen, in metrics.jsonl and in TensorBoard."""
        if not self.is_main:
            return
        step = self.step + 1
        self._say(f"step {step}: {name}: {sentence}")
        self._write({"step": step, "time": round(time.time(), 1), "alarm": name, "sentence": sentence})
        if self._tensorboard is not None:
            self._tensorboard.add_text(f"alarm/{name}", sentence, step)

    def record(self, means: dict[str, float]) -> None:
        """Write values of the step now running to metrics.jsonl, TensorBoard and the progress bar (or a line)."""
        step = self.step + 1
        rounded = {name: float(f"{value:.5g}") for name, value in means.items()}
        self._write({"step": step, "time": round(time.time(), 1)} | rounded)
        if self._tensorboard is not None:
            for name, value in means.items():
                self._tensorboard.add_scalar(name, value, step)
        shown = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        self._progress.update(self._task, losses=shown)
        if self._progress.disable:
            rate = (step - self._first) / (time.monotonic() - self._began)
            left = _duration((self.config.steps - step) / rate)
            said = f"step {step}/{self.config.steps} {shown}, {rate:.2f} steps/s, {left} left"
            print(said, file=sys.stderr, flush=True)

    def _write(self, line: dict[str, Any]) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def leave_out(self, sentence: str) -> None:
        """Name a sample that cannot be used, and why, once in bad_samples.txt; the first few on the screen too.

        The reason may tell a random instant of the file, so it is the name alone that is compared.
        """
        if _name(sentence) in self._left_out:
            return
        self._left_out.add(_name(sentence))
        self.folder.mkdir(parents=True, exist_ok=True)  # that of another machine may not be there
        with open(self.folder / BAD_SAMPLES, "a", encoding="utf-8") as file:
            file.write(f"{sentence}\n")
        if len(self._left_out) <= _SHOWN_BAD:
            self._say(f"left out: {sentence}")

    def _bad_names(self) -> set[str]:
        """The samples that all processes on this disk have named."""
        path = self.folder / BAD_SAMPLES
        return set(map(_name, path.read_text(encoding="utf-8").splitlines())) if path.exists() else set()

    def _from_main(self, content: bytes | None) -> bytes | None:
        """What the main process has, for all processes."""
        if self.world_size == 1:
            return content
        contents = [content]
        dist.broadcast_object_list(contents, src=0, device=self.device)
        return contents[0]

    def take_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by those of the main one."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def sum_over_processes(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by their sum."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Mean of the gradients over all processes, in one transfer."""
        if self.world_size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


def _completed(before: Any, defaults: Any) -> Any:
    """Settings of an older version with the keys of today: those it did not know had the effect of their defaults."""
    if not (isinstance(before, dict) and isinstance(defaults, dict)):
        return before
    return {key: _completed(before.get(key, default), default) for key, default in defaults.items()}


def _name(sentence: str) -> str:
    """The bad sample that a sentence begins with."""
    return sentence.partition(": ")[0]


def _device(name: str) -> torch.device:
    """The device of this process; of several processes on one machine, each takes a GPU of its own."""
    if name == "auto":
        name = best_device().type
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
        raise PhenakiError(f"run.device '{name}' cannot be used: {str(error).splitlines()[0]}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no GPU, such as a barrier, would else take the first
    return device


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"


def _tensorboard(folder: Path, first: int) -> Any:
    """A TensorBoard writer, where the extra `train` is installed, that hides older records from step `first` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=first)
