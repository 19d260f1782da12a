"""What surrounds the updates of a run: folder, processes, checkpoints, the loop, Ctrl-C."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from phenaki.core.errors import PhenakiError, shortened
from phenaki.core.files import write_atomic
from phenaki.core.locks import lock_folder
from phenaki.core.memory import lay_out
from phenaki.core.precision import resolve_device
from phenaki.training import checkpoints
from phenaki.training.bad_samples import BadSamples
from phenaki.training.checkpoints import Checkpoints
from phenaki.training.config import RunConfig
from phenaki.training.gradients import GradientReducer
from phenaki.training.metrics import MetricsLogger
from phenaki.training.processes import Processes
from phenaki.training.resume import ResumePolicy, remove_run
from phenaki.training.runs import write_state
from phenaki.training.sharding import check_shardable, laid_out_as, local, partition_sharded, sharding_mesh
from phenaki.training.track import Preview, check_trackers

Metrics = dict[str, float | Tensor]
"""Scalars by name."""
_SAVED_TYPES = {"step": int, "recipe": dict, "frozen": dict, "processes": int, "skipped": int, "state": dict}


class _UnusableError(PhenakiError):
    """A checkpoint of this run has other contents than the run's networks, optimizers and data."""


class Run:
    """One training run in a folder: `with Run(...) as run: for step in run.steps(): ...`.

    The folder holds recipe.json, checkpoints, metrics.jsonl, TensorBoard files and pictures. Every random draw of a
    step comes from `run.rng(step)`, so that a checkpoint needs no random state. `frozen`, `resume` and `overwrite` are
    those of `ResumePolicy`.
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
        self.device = resolve_device(config.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # calls that name no GPU, such as a barrier, would take the first
            torch.set_float32_matmul_precision("high")  # of what autocast leaves in float32
            torch.backends.cudnn.benchmark = True  # few shapes, many steps
        self.processes = Processes(self.device, config.timeout, self._on_lost)
        self.rank, self.world_size = self.processes.rank, self.processes.count
        self.is_main = self.processes.is_main
        self.step = self.skipped = self._skipped_in_a_row = 0
        self.check_metrics: Callable[[dict[str, float], int], None] = lambda metrics, step: None
        self._unread: list[tuple[int, Metrics]] = []
        self._saved = -1
        self._lock = ExitStack()
        self._stop = False
        self._failure = self._result = ""
        if config.strategy == "fsdp":
            check_shardable(recipe.optimizer.kind, self.world_size)
        self._policy = ResumePolicy(self.folder, recipe, frozen or {}, resume, overwrite)
        self._logger = MetricsLogger(self.folder, config, self.processes, self.device)
        self._bad_samples = BadSamples(self.folder, self._logger.say)
        self._checkpoints = Checkpoints(self.folder, config.keep, config.keep_every, self._logger.say)
        if self.is_main:
            check_trackers(config.trackers)

    def __enter__(self) -> Run:
        if self.is_main:
            self._lock.enter_context(lock_folder(self.folder, "training"))
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self.processes.join()
        self._logger.start()
        self._bad_samples.reset(remove=self._policy.replaces and self.is_main)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        self._checkpoints.join()
        self._logger.stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._logger.is_open:
            self._write_end(error)
        self.processes.leave(error)

    def finish(self, sentence: str) -> None:
        """The run reached its aim before its last step; `sentence` says so in `phenaki runs`."""
        self._result = sentence

    def _write_end(self, error: BaseException | None) -> None:
        """How the run ended, for `phenaki runs`; a full disk must not hide the error that ended it."""
        with suppress(PhenakiError, OSError):
            if error is not None and not isinstance(error, KeyboardInterrupt):
                write_state(self.folder, "failed", str(error) or type(error).__name__)
            else:
                finished = bool(self._result) or self.step >= self.config.steps
                write_state(self.folder, "finished" if finished else "stopped", self._result)

    def _on_lost(self, sentence: str) -> None:
        """Another process is lost, and this one is about to be ended."""
        if self._logger.is_open:
            self._write_end(PhenakiError(sentence))

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop and number == signal.SIGINT:  # a cluster may send SIGTERM twice, to the group and to each process
            raise KeyboardInterrupt
        self._stop = True

    def rng(self, step: int, shared: bool = False) -> torch.Generator:
        """All randomness of a step, on the CPU: a function of seed, step and rank, or, if `shared` by all processes, of
        seed and step."""
        seed = (self.config.seed * 1_000_003 + step) * 65_537 + (-1 if shared else self.rank)
        return torch.Generator().manual_seed(seed % 2**63)

    def initialize(self, build: Callable[[], dict[str, nn.Module]]) -> dict[str, nn.Module]:
        """Networks, on the CPU, whose weights follow from the seed; the global random state is restored afterwards.

        Raises PhenakiError for networks that cannot be built of these sizes, or are larger than memory, before they
        take any.
        """
        lay_out(lambda: nn.ModuleDict(build()), "the recipe")
        with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from the global state on the CPU only
            torch.default_generator.manual_seed(self.config.seed)
            return build()

    def gradient_reducer(self, parameters: Iterable[Tensor], passes: int = 1) -> GradientReducer:
        """Averages the gradients of replicated parameters; those of shards are averaged by the backward pass itself."""
        full, _ = partition_sharded(parameters)
        return GradientReducer(full, self.processes, passes, early=self.config.strategy == "ddp")

    # ---- checkpoints

    def restore(self, state: dict[str, Any]) -> None:
        """Load the checkpoint to resume from, if there is one, into the state (each item with load_state_dict).

        The main process finds it; the others open it too, or, if they do not see its disk, receive it. One whose
        contents are damaged is named and passed over for an older one.
        """
        unusable = None
        found = self._policy.find(self._checkpoints) if self.is_main else iter(())
        while (content := self.processes.from_main(next(found, None))) is not None:
            try:
                return self._restore_from(content, state)
            except _UnusableError as error:
                if not self._policy.takes_older:
                    raise
                unusable = error
                if self.is_main:
                    self._logger.say(f"skipped: {error}")
        if unusable is not None:
            raise unusable

    def _restore_from(self, content: checkpoints.Content, state: dict[str, Any]) -> None:
        mesh = sharding_mesh(self.device) if self.config.strategy == "fsdp" else None
        if self.processes.any(not content.is_here()):
            saved = checkpoints.receive(content, self.processes)
        else:
            saved = checkpoints.load(content, self.device, mesh)
        if wrong := [name for name, kind in _SAVED_TYPES.items() if not isinstance(saved.get(name), kind)]:
            raise _UnusableError(f"the checkpoint '{content.path}' is damaged: it has no {shortened(wrong)} of a run")
        self._policy.check(saved, state)
        if saved["processes"] != self.world_size and self.is_main:
            self._logger.say(
                f"the checkpoint was written by {saved['processes']} processes and is resumed by {self.world_size}: "
                "the data come in another order from here on, and the result differs from that of the original run"
            )
        for name, value in checkpoints.items(content, saved):
            try:
                if isinstance(state[name], nn.Module):
                    own = state[name].state_dict()
                    value = {key: laid_out_as(own.get(key), tensor) for key, tensor in value.items()}
                state[name].load_state_dict(value)
            except PhenakiError:
                raise
            except Exception as error:  # it depends on what is damaged
                raise _UnusableError(
                    f"the checkpoint '{content.path}' does not fit this run: its {name} has other tensors or sizes. "
                    "Keep its recipe, or name another checkpoint"
                ) from error
        self.step, self.skipped = saved["step"], saved["skipped"]
        if self.is_main:
            self._logger.say(self._policy.summary(content.path, saved))

    def save(self, state: dict[str, Any]) -> None:
        """Copy the state, and write it while the training goes on; all call, as the position in the data differs."""
        if self.step == self._saved:
            return
        self._read_metrics()
        with self.processes.answered():
            copied = {name: item.state_dict() for name, item in state.items()}
        self._check_finite(copied)
        content = {
            "recipe": self._policy.recipe,
            "frozen": self._policy.frozen,
            "processes": self.world_size,
            "skipped": self.skipped,
            "state": copied,
        }
        if self.config.strategy == "fsdp":
            self._checkpoints.save_sharded(self.step, content, self.processes)
        elif self.is_main:
            self._checkpoints.save(self.step, content)
        self._saved = self.step

    def _check_finite(self, states: dict[str, Any]) -> None:
        """Raise PhenakiError rather than replace the newest checkpoint by weights that are not finite."""
        for name, state in states.items():
            tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
            finite = all(bool(local(tensor).isfinite().all()) for tensor in tensors)
            if self.processes.any(not finite):
                raise PhenakiError(f"the {name} is not finite after step {self.step}: {self._way_back()}")

    def _way_back(self) -> str:
        """What to do about a run that diverged."""
        self._checkpoints.join()
        good = self._checkpoints.found()
        if not good:
            return "there is no checkpoint yet; start over with a lower optimizer.lr"
        return f"resume from the last good checkpoint in a new folder, with --resume {good[0]} and a lower optimizer.lr"

    # ---- the loop

    def steps(self, state: dict[str, Any], prepare: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Yield the remaining steps; saves a checkpoint every `checkpoint_every` steps, at the end, and on Ctrl-C.

        `prepare` is called before each step. If it raises PhenakiError in any process, all save and raise it.
        """
        if self.is_main:
            self._open_records()
        self.processes.wait_for_main()
        first = self.step
        self._logger.begin(self.step)
        while self.step < self.config.steps and not self._stopped(prepare):
            evaluates = self.completes(self.config.eval_every)
            yield self.step
            if evaluates:
                self.processes.wait_for_main()  # it evaluates, and writes the model
            self.step += 1
            self._logger.advance(self.step)
            self._checkpoints.finish_sharded(self.processes)
            if self.step % self.config.checkpoint_every == 0:
                self.save(state)
                self.processes.wait_for_main()
        failures = [failure for failure in self.processes.gather(self._failure) if failure]
        if self.step > first or not failures:
            self.save(state)
        self._checkpoints.finish_sharded(self.processes, wait=True)
        if self.is_main:
            self._checkpoints.wait()
            self._summarize()
        if failures:
            raise PhenakiError(failures[0])

    def _summarize(self) -> None:
        if bad := self._bad_samples.names():
            self._logger.say(f"{len(bad)} samples were unusable and skipped; {self._bad_samples.path} names them")
        if self._stop:
            self._logger.say(f"stopped at step {self.step}; run the same command to resume")

    def _open_records(self) -> None:
        """Write the recipe, and drop the records of steps that are about to run again."""
        if self._policy.replaces:
            remove_run(self.folder)
        self._checkpoints.forget(after=self.step)
        self._logger.open_trackers(self._policy.recipe, self.step)
        with write_atomic(self.folder / "recipe.json", "w") as file:
            json.dump(self._policy.recipe, file, indent=2)
        write_state(self.folder, "running")

    def _stopped(self, prepare: Callable[[], None]) -> bool:
        """Whether any process was asked to stop, or cannot go on: all leave the loop at the same step."""
        try:
            prepare()
        except PhenakiError as error:
            self._failure = str(error)
        return self.processes.any(self._stop or bool(self._failure))

    def next(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time it takes is recorded."""
        return self._logger.throughput.next(batches)

    def skip_sample(self, sentence: str) -> None:
        """Name a sample that cannot be used, and why, in bad_samples.txt."""
        self._bad_samples.add(sentence)

    # ---- records; they are of the step that is running

    def completes(self, every: int) -> bool:
        """Whether this step is the last of `every`, or of the run."""
        return (self.step + 1) % every == 0 or self.step + 1 == self.config.steps

    def log(self, **values: float | Tensor) -> None:
        """Record the step's values: their means every `log_every` steps. All processes call.

        Values on a GPU are read then, all at once, so that the host never waits for it in between.

        A step whose loss (`...loss`) or gradient norm (`...grad_norm`) is not finite was not taken: it is counted as
        `skipped` and excluded from the means. Raises PhenakiError after `bad_steps` of them in a row.
        """
        self._unread.append((self.step, values))
        is_due = self.completes(self.config.log_every)
        if is_due or self.device.type == "cpu":
            self._read_metrics()
        if is_due:
            self._logger.flush(self.step + 1, {"skipped": self.skipped} if self.skipped else {})

    def _read_metrics(self) -> None:
        """Values of the steps since the last time."""
        unread, self._unread = self._unread, []
        for step, values in read_metrics(unread):
            if problem := _not_finite(values):
                self._skip_step(problem, step)
                continue
            self._skipped_in_a_row = 0
            self._logger.add(values)
            self.check_metrics(values, step)

    def _skip_step(self, problem: str, step: int) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == self.config.bad_steps:
            raise PhenakiError(
                f"{problem} at step {step}; {self.config.bad_steps} steps in a row were skipped as not finite "
                f"(run.bad_steps): {self._way_back()}"
            )
        if self._skipped_in_a_row == 1:
            self.alarm("step skipped", f"{problem}, so the weights were not updated", step)

    def alarm(self, name: str, sentence: str, step: int | None = None) -> None:
        """Report a problem, of the running step or an earlier one, on the screen and in all trackers."""
        self._logger.alarm(name, sentence, (self.step if step is None else step) + 1)

    def record(self, values: Mapping[str, float]) -> None:
        """Values of this step alone; the main process calls."""
        self._logger.record(values, self.step + 1)

    def evaluating(self) -> AbstractContextManager[None]:
        """The screen says that the block evaluates; the main process calls."""
        return self._logger.evaluating(self.step + 1)

    def show(self, name: str, preview: Preview, fps: float) -> None:
        """Write clips to the folder and hand them to all trackers; the main process calls."""
        self._logger.preview(name, preview, fps, self.step + 1)


def read_metrics(steps: Sequence[tuple[int, Metrics]]) -> list[tuple[int, dict[str, float]]]:
    """The values of steps as numbers, with one copy from the device."""
    tensors = [value for _, values in steps for value in values.values() if isinstance(value, Tensor)]
    floats = iter(torch.stack([tensor.detach().float() for tensor in tensors]).cpu().tolist() if tensors else [])
    return [
        (step, {name: next(floats) if isinstance(value, Tensor) else value for name, value in values.items()})
        for step, values in steps
    ]


def _not_finite(values: Mapping[str, float]) -> str:
    """Which loss or gradient norm is not finite, in words, or nothing."""
    for name, value in values.items():
        if name.endswith(("loss", "grad_norm")) and not math.isfinite(value):
            return f"the {name} became {value}"
    return ""
