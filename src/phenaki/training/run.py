"""What surrounds the updates of a run: its folder, processes, checkpoints, metrics, progress bar and Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from rich.progress import TextColumn
from torch import Tensor

from phenaki.core.config import changes, to_dict
from phenaki.core.errors import PhenakiError
from phenaki.core.files import write_atomic, writing
from phenaki.core.precision import Precision, best_device
from phenaki.core.progress import progress_bar
from phenaki.media.video import contact_sheet, mosaic, write_image, write_video
from phenaki.training import checkpoints
from phenaki.training.checkpoints import Checkpoints
from phenaki.training.gradients import GradientReducer
from phenaki.training.processes import Processes
from phenaki.training.runs import write_state
from phenaki.training.sharding import Strategy, check_shardable, local, mesh_of_all, partition_sharded
from phenaki.training.track import Preview, ThroughputMeter, Tracker, TrackerName, check_trackers, open_trackers

BAD_SAMPLES = "bad_samples.txt"
_SHOWN_BAD = 10
_MAY_CHANGE = {f"run.{key}" for key in ("steps", "device", "log_every", "picture_every", "checkpoint_every")}
_MAY_CHANGE |= {f"run.{key}" for key in ("trackers", "prompts", "keep", "keep_every", "bad_steps", "timeout")}
_MAY_CHANGE |= {"run.checkpointing", "run.compile"}
_MAY_CHANGE |= {"data.bad_share", "data.validation", "loss.lpips_weights", "loss.i3d_weights"}
_MAY_DIFFER = ("optimizer", "loss", "run", "sampling")  # from the recipe of a checkpoint that is named
_WRITTEN = ("recipe.json", "metrics.jsonl", "state.json", "wandb_id", "checkpoint.pt", "events.out.tfevents.*")
_WRITTEN += ("*_[0-9][0-9]*.png", "*_[0-9][0-9]*.mp4")


@dataclass(frozen=True)
class RunConfig:
    """How long and how often. `device` "auto" takes CUDA where there is one.

    `precision` is that of the networks that are trained. A frozen tokenizer encodes, and pictures are made, in the
    precision in which users will run them. `trackers`: where figures and pictures go besides the run's folder;
    TensorBoard is written where it is installed. `prompts`: a file with a prompt a line, which a generator draws each
    time there are pictures; "" for none. Of the checkpoints the newest `keep` stay, and those after steps that are
    multiples of `keep_every`, if that is not 0. A step whose loss or gradients are not finite is not taken; `bad_steps`
    in a row end the run, and so does a process that the others wait for longer than `timeout` seconds.
    `checkpointing`: each layer keeps its input alone and runs once more in the backward pass, for less memory.
    `compile`: the layers run as torch.compile makes them. `strategy`: how several processes share the work; "ddp" holds
    all weights in each and averages gradients, "fsdp" holds a shard of the layers' in each (torch's FSDP2).
    """

    steps: int = 1000
    seed: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    log_every: int = 10
    picture_every: int = 500
    checkpoint_every: int = 250
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    prompts: str = ""
    keep: int = 2
    keep_every: int = 0
    bad_steps: int = 10
    timeout: float = 60.0
    checkpointing: bool = False
    compile: bool = False
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "picture_every", "checkpoint_every", "keep", "bad_steps", "timeout"):
            if not getattr(self, name) >= 1:
                raise PhenakiError(f"run.{name} {getattr(self, name)} must be 1 or more")
        if self.keep_every < 0:
            raise PhenakiError(f"run.keep_every {self.keep_every} must be a number of steps, or 0")
        if self.compile and self.strategy == "fsdp":
            raise PhenakiError(
                "run.compile: kernels that torch.compile makes do not gather the shards of run.strategy fsdp: take "
                "run.compile=false, or run.strategy=ddp"
            )


class Run:
    """One training run in a folder: `with Run(...) as run: for step in run.steps(): ...`.

    The folder holds recipe.json, checkpoints, metrics.jsonl, TensorBoard files and pictures. Every random draw of a
    step comes from `run.rng(step)`, so that a checkpoint needs no random state. `frozen`: the fingerprints, by name, of
    the networks that a second stage builds on; a checkpoint of others is refused.

    `resume`: "auto" goes on from the newest checkpoint in the folder, if there is one, "never" starts anew, and a path
    goes on from that checkpoint. A folder with a run of another recipe, or with any where `resume` is "never", is
    refused with a PhenakiError, unless `overwrite` says that the run in it is to be removed.
    """

    def __init__(
        self,
        folder: str | Path,
        config: RunConfig,
        recipe: Any,
        frozen: Mapping[str, str] | None = None,
        resume: str = "auto",
        overwrite: bool = False,
    ):
        self.folder, self.config = Path(folder), config
        self.device = _device(config.device)
        self.processes = Processes(self.device, config.timeout)
        self.rank, self.world_size = self.processes.rank, self.processes.count
        self.step = self.skipped = self._skipped_in_a_row = 0
        self._saved = -1
        self._stop = False
        self._failure = ""
        self._recent: dict[str, list[float]] = {}
        self._left_out: set[str] = set()
        self._trackers: list[Tracker] = []
        self._pace = ThroughputMeter(self.device, self.world_size)
        self._frozen = dict(frozen or {})
        if config.strategy == "fsdp":
            check_shardable(recipe.optimizer.kind, self.world_size)
        self._recipe = _plain(recipe)
        self._defaults = {room: _plain(type(getattr(recipe, room))()) for room in self._recipe}
        self._resume = resume
        self._removes = self._check_folder(overwrite)
        self._checkpoints = Checkpoints(self.folder, config.keep, config.keep_every, self._say)
        self._progress = progress_bar(TextColumn("{task.fields[losses]}"), visible=self.is_main)
        if self.is_main:
            check_trackers(config.trackers)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def _check_folder(self, overwrite: bool) -> bool:
        """Whether a run in the folder is to be removed. Raises PhenakiError where it would be, and must not."""
        path = self.folder / "recipe.json"
        if not path.exists():
            return False
        named = self._resume not in ("auto", "never")
        own = named and Path(self._resume).resolve().is_relative_to(self.folder.resolve())
        try:
            checkpoints.check_version(self.folder)
            if self._resume == "never" or (named and not own):
                raise PhenakiError(f"the folder '{self.folder}' holds a run: name another one")
            if changed := self._changed(json.loads(path.read_text())):
                raise PhenakiError(
                    f"the run in {self.folder} was started with another recipe (changed: {'; '.join(changed)}): "
                    "name another folder, or keep the recipe"
                )
        except PhenakiError as error:
            if not overwrite:
                raise PhenakiError(f"{error}, or remove that run with --overwrite") from None
            if own:
                raise PhenakiError(
                    f"--overwrite would remove '{self._resume}' with the run it belongs to: name another folder"
                ) from error
            return True
        return False

    def _changed(self, before: dict[str, Any], may_differ: Sequence[str] = ()) -> list[str]:
        """How this recipe differs from an earlier one; what leaves the updates as they are may change."""
        before = _completed(before, self._defaults)
        return [
            f"{name} from {old} to {new}"
            for room, values in self._recipe.items()
            if room not in may_differ
            for key, value in values.items()
            if f"{room}.{key}" not in _MAY_CHANGE
            for name, old, new in changes(before[room].get(key), value, f"{room}.{key}")
        ]

    def __enter__(self) -> Run:
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        if self.is_main:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        self.processes.join()
        if self._removes and self.is_main:
            (self.folder / BAD_SAMPLES).unlink(missing_ok=True)
        self._task = self._progress.add_task("step", total=self.config.steps, losses="")
        self._progress.start()
        self._left_out = self._bad_names()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._checkpoints.join()
        self._progress.stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for tracker in self._trackers:
            tracker.close()
        if self._trackers:
            self._write_end(error)
        self.processes.leave(error)

    def _write_end(self, error: BaseException | None) -> None:
        """How the run ended, for `phenaki runs`; a full disk is no reason to hide the error that ended it."""
        with suppress(PhenakiError, OSError):
            if error is not None and not isinstance(error, KeyboardInterrupt):
                write_state(self.folder, "failed", str(error) or type(error).__name__)
            else:
                write_state(self.folder, "finished" if self.step >= self.config.steps else "stopped")

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop and number == signal.SIGINT:  # a manager may send SIGTERM twice, to the group and to each
            raise KeyboardInterrupt
        self._stop = True

    def rng(self, step: int, shared: bool = False) -> torch.Generator:
        """The source of all randomness of a step, on the CPU: a function of seed, step and rank alone; of seed and step
        where it is `shared` by all processes."""
        seed = (self.config.seed * 1_000_003 + step) * 65_537 + (-1 if shared else self.rank)
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
        """Load the checkpoint to go on from, where there is one, into the parts (each with load_state_dict).

        All processes get the one that the main process finds: the others may be on machines that do not see its disk.
        """
        content = self.processes.from_main(self._to_go_on_from() if self.is_main else None)
        if content is None:
            return
        mesh = mesh_of_all(self.device) if self.config.strategy == "fsdp" else None
        saved = checkpoints.load(content, self.device, mesh)
        self._check_fits(saved, parts)
        if saved["processes"] != self.world_size and self.is_main:
            self._say(
                f"the number of processes was {saved['processes']} and is {self.world_size} now: the data come in "
                "another order from here on, and the end is not bit for bit that of the run as it was started"
            )
        for name, part in parts.items():
            try:
                part.load_state_dict(saved["parts"][name])
            except PhenakiError:
                raise
            except (RuntimeError, ValueError, KeyError) as error:
                self._refuse_checkpoint(f"its {name} has other parts or sizes", error)
        self.step, self.skipped = saved["step"], saved["skipped"]

    def _to_go_on_from(self) -> checkpoints.Content | None:
        if self._resume not in ("auto", "never"):
            return checkpoints.read_whole(Path(self._resume))
        return None if self._removes else self._checkpoints.newest()

    def _check_fits(self, saved: dict[str, Any], parts: dict[str, Any]) -> None:
        """Raise PhenakiError for the checkpoint of another recipe, or of a run that builds on other networks."""
        named = self._resume not in ("auto", "never")
        strategy = saved["recipe"]["run"].get("strategy", "ddp")
        if strategy != self.config.strategy:
            self._refuse_checkpoint(f"it was written with run.strategy={strategy}")
        if saved["frozen"].keys() != self._frozen.keys():
            self._refuse_checkpoint("it is of another stage")
        for name, fingerprint in self._frozen.items():
            if saved["frozen"][name] != fingerprint:
                raise PhenakiError(
                    f"the run in {self.folder} builds on another {name}: name that one, or another folder"
                )
        if changed := self._changed(saved["recipe"], _MAY_DIFFER if named else ()):
            self._refuse_checkpoint(f"it is of another recipe (changed: {'; '.join(changed)})")
        if saved["parts"].keys() != parts.keys():
            self._refuse_checkpoint("it has other networks")

    def _refuse_checkpoint(self, why: str, error: Exception | None = None) -> NoReturn:
        place = self.folder if self._resume == "auto" else self._resume
        raise PhenakiError(
            f"the checkpoint in '{place}' does not fit this run: {why}. Keep its recipe, or name another"
        ) from error

    def save(self, parts: dict[str, Any]) -> None:
        """Copy all that there is to save, and write it while the training goes on.

        All processes call: the data's state is of each of them.
        """
        if self.step == self._saved:
            return
        with self.processes.answered():
            states = {name: part.state_dict() for name, part in parts.items()}
        self._check_finite(states)
        state = {
            "recipe": self._recipe,
            "frozen": self._frozen,
            "processes": self.world_size,
            "skipped": self.skipped,
            "parts": states,
        }
        if self.config.strategy == "fsdp":
            self._checkpoints.save_sharded(self.step, state, self.processes)
        elif self.is_main:
            self._checkpoints.save(self.step, state)
        self._saved = self.step

    def _check_finite(self, states: dict[str, Any]) -> None:
        """Raise PhenakiError for weights that no training can go on from: the newest checkpoint stays as it is."""
        for name, state in states.items():
            tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
            finite = all(bool(local(tensor).isfinite().all()) for tensor in tensors)
            if self.processes.any(not finite):
                raise PhenakiError(f"the {name} is not finite after step {self.step}: {self._way_back()}")

    def _way_back(self) -> str:
        """What to do about a run that is broken, with the checkpoint from before it was."""
        self._checkpoints.join()
        good = self._checkpoints.found()
        if not good:
            return "there is no checkpoint yet; start anew with a lower optimizer.lr"
        return f"go on from the last good checkpoint in a new folder, with --resume {good[0]} and a lower optimizer.lr"

    # ---- the loop

    def steps(self, parts: dict[str, Any], prepare: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Yield the steps that remain; saves a checkpoint every so often, at the end, and on Ctrl-C.

        `prepare` is called before each step. Where it raises PhenakiError in one process, all save and raise it.
        """
        if self.is_main:
            self._open_records()
        self.processes.wait_for_main()
        self._first, self._began = self.step, time.monotonic()
        self._pace.begin()
        self._progress.update(self._task, completed=self.step)
        while self.step < self.config.steps and not self._stopped(prepare):
            shows = self.completes(self.config.picture_every)
            yield self.step
            if shows:
                self.processes.wait_for_main()  # which draws pictures
            self.step += 1
            self._progress.update(self._task, completed=self.step)
            if self.step % self.config.checkpoint_every == 0:
                self.save(parts)
                self.processes.wait_for_main()
        failures = [failure for failure in self.processes.gather(self._failure) if failure]
        if self.step > self._first or not failures:
            self.save(parts)
        if self.is_main:
            self._checkpoints.wait()
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
        """Write the recipe, and take back what was recorded of steps that are about to be run again."""
        if self._removes:
            self._remove_run()
        self._checkpoints.forget(after=self.step)
        self._trackers = open_trackers(self.config.trackers, self.folder, self._recipe, self.step)
        with write_atomic(self.folder / "recipe.json", "w") as file:
            json.dump(self._recipe, file, indent=2)
        write_state(self.folder, "running")

    def _remove_run(self) -> None:
        """Remove what another run wrote here; what it trained stays until it is written anew."""
        for path in [path for pattern in _WRITTEN for path in self.folder.glob(pattern)]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / checkpoints.FOLDER, ignore_errors=True)

    def _stopped(self, prepare: Callable[[], None]) -> bool:
        """Whether any process was asked to stop, or cannot go on: all leave the loop at the same step."""
        try:
            prepare()
        except PhenakiError as error:
            self._failure = str(error)
        return self.processes.any(self._stop or bool(self._failure))

    def completes(self, every: int) -> bool:
        """Whether the step now running is the last of `every`, or of the run."""
        return (self.step + 1) % every == 0 or self.step + 1 == self.config.steps

    def due(self, every: int) -> bool:
        """Whether the step now running is the last of `every`, or of the run; on the main process only."""
        return self.is_main and self.completes(every)

    def log(self, **values: float) -> None:
        """Record the step's values; every `log_every` steps their means, and the run's pace, go to the trackers.

        All processes call. A mean is over the steps, and the processes, that have the value. A step whose loss or
        gradients' norm (`...loss`, `...grad_norm`) is not finite was not taken: it is counted as `skipped`, and left
        out of the means. Raises PhenakiError where there are `bad_steps` of them in a row.
        """
        wrong = _not_finite(values)
        if wrong:
            self._skip(wrong)
        else:
            self._skipped_in_a_row = 0
        for name, value in values.items() if not wrong else ():
            self._recent.setdefault(name, []).append(value)
        if self.completes(self.config.log_every):
            means = _means(self.processes.gather(self._recent))
            means |= {"skipped": self.skipped} if self.skipped else {}
            if self.is_main:
                self._track(means | self._pace.metrics())
                self._tell(means)
            self._recent.clear()

    def _skip(self, wrong: str) -> None:
        """Count a step that was not taken; the checkpoints stay as they are."""
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == self.config.bad_steps:
            raise PhenakiError(
                f"{wrong} at step {self.step}, the {self.config.bad_steps}th of steps in a row that were not taken as "
                f"they were not finite (run.bad_steps): {self._way_back()}"
            )
        if self._skipped_in_a_row == 1:
            self.alarm("step skipped", f"{wrong}, so no weights were moved by it")

    def alarm(self, name: str, sentence: str) -> None:
        """Say what goes wrong at the step now running: on the screen and in all trackers."""
        if not self.is_main:
            return
        step = self.step + 1
        self._say(f"step {step}: {name}: {sentence}")
        for tracker in self._trackers:
            tracker.alarm(name, sentence, step)

    def record(self, means: dict[str, float]) -> None:
        """Write values of the step now running to all trackers and the progress bar (or a line)."""
        self._track(means)
        self._tell(means)

    def _track(self, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            with self._recording():
                tracker.metrics(values, self.step + 1)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """What cannot be written, such as on a full disk, is said and missing: the training goes on."""
        try:
            yield
        except (OSError, PhenakiError) as error:
            self._say(f"not recorded at step {self.step + 1}: {error}")

    def _tell(self, means: Mapping[str, float]) -> None:
        step = self.step + 1
        shown = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        self._progress.update(self._task, losses=shown)
        if self._progress.disable:
            rate = (step - self._first) / (time.monotonic() - self._began)
            left = _duration((self.config.steps - step) / rate)
            said = f"step {step}/{self.config.steps} {shown}, {rate:.2f} steps/s, {left} left"
            print(said, file=sys.stderr, flush=True)

    def show(self, name: str, drawn: Preview, fps: float) -> None:
        """Write clips of the step now running, frame by frame as name_STEP.png and playing as name_STEP.mp4, and hand
        both to all trackers."""
        step = self.step + 1
        file = self.folder / f"{name}_{step:07d}.png"
        with self._recording():
            write_image(file, contact_sheet(drawn.clips, columns=11, labels=drawn.labels))
            write_video(file.with_suffix(".mp4"), mosaic(drawn.clips), fps)
            for tracker in self._trackers:
                tracker.picture(name, file, step)
                tracker.video(name, file.with_suffix(".mp4"), step)

    def next(self, batches: Iterator[Any]) -> Any:
        """The next batch; how long it takes to come is recorded."""
        return self._pace.next(batches)

    def skip_sample(self, sentence: str) -> None:
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

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by those of the main one."""
        self.processes.broadcast(tensors)

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes by their sum."""
        self.processes.all_reduce(tensors)

    def gradient_reducer(self, parameters: Iterable[Tensor], passes: int = 1) -> GradientReducer:
        """What averages the gradients of some parameters over all processes. Those of shards are means already: the
        backward pass averages them."""
        full, _ = partition_sharded(parameters)
        return GradientReducer(full, self.processes, passes, early=self.config.strategy == "ddp")


def _means(processes: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Of the values by name that each process has."""
    names = dict.fromkeys(name for values in processes for name in values)
    together = {name: [value for values in processes for value in values.get(name, ())] for name in names}
    return {name: sum(values) / len(values) for name, values in together.items()}


def _not_finite(values: Mapping[str, float]) -> str:
    """What is not finite of a step's losses and gradients, in words, or nothing."""
    for name, value in values.items():
        if name.endswith(("loss", "grad_norm")) and not math.isfinite(value):
            return f"the {name} became {value}"
    return ""


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as it is read back from JSON."""
    return json.loads(json.dumps(to_dict(config)))


def _completed(before: Any, defaults: Any) -> Any:
    """Settings of an older version with the keys of today: those it did not know had the effect of their defaults."""
    if isinstance(before, list) and isinstance(defaults, list) and defaults:
        return [_completed(item, defaults[0]) for item in before]
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
