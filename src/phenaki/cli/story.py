"""Stories: scenes read line by line, and a video on disk that can be resumed after each scene."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from phenaki.cli.job import Job
from phenaki.cli.output import PIPE, Output
from phenaki.core.errors import PhenakiError, pluralize, shortened
from phenaki.core.files import parse_json_object
from phenaki.core.locks import lock
from phenaki.core.reading import open_regular

if TYPE_CHECKING:
    from torch import Tensor

    from phenaki.media.writer import Fragments
    from phenaki.pipeline import Phenaki
    from phenaki.sampling import Rollout, Scene

_SETTINGS = {"frames", "prime_frames"}
_MAX_LINE = 100_000  # bytes
_PROGRESS = {"finished": int, "digest": str, "frames": int, "bytes": int, "settings": dict}


@dataclass(frozen=True)
class Line:
    """A scene as written; `where` names its file and line. None: the default."""

    prompt: str
    frames: int | None
    prime_frames: int | None
    where: str

    def scene(self, model: Phenaki, frames: int | None, first: bool) -> Scene:
        """The scene, checked, of `frames` unless the line sets them."""
        try:
            return model.scene(self.prompt, frames if self.frames is None else self.frames, self.prime_frames, first)
        except PhenakiError as error:
            raise PhenakiError(f"{self.where}: {error}") from error


def read_story(path: Path) -> Iterator[Line]:
    """The scenes of a text file, or of standard input ("-") as they arrive, one per line.

    A line is a prompt, optionally after settings in brackets: `[frames=21 prime_frames=5]`, or `[21]` for the frames
    alone. Empty lines and those that begin with # are skipped. Raises PhenakiError, with the line, for what cannot be
    read, and for a story without a scene.
    """
    name = "the story" if path == PIPE else f"'{path}'"
    found = False
    for number, raw in enumerate(_lines(path), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise PhenakiError(f"{name}, line {number}: not valid UTF-8: {error}") from error
        if line and not line.startswith("#"):
            found = True
            yield _parsed(line, f"{name}, line {number}")
    if not found:
        raise PhenakiError(f"{name} has no scenes: write one prompt per line")


def _lines(path: Path) -> Iterator[bytes]:
    if path == PIPE:
        yield from _bounded_lines(sys.stdin.buffer, "the story")
        return
    try:
        with open_regular(path) as file:
            yield from _bounded_lines(file, f"'{path}'")
    except FileNotFoundError as error:
        raise PhenakiError(f"there is no story file '{path}'") from error
    except IsADirectoryError as error:
        raise PhenakiError(f"the story '{path}' is a folder: give a text file") from error
    except OSError as error:
        advice = ": give '-' and pass it on standard input" if error.errno == errno.EINVAL else ""
        raise PhenakiError(f"the story '{path}' cannot be read: {error.strerror}{advice}") from error


def _bounded_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    for number in count(1):
        line = file.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise PhenakiError(f"{name}, line {number}: more than {_MAX_LINE:,} bytes: write one prompt per line")
        if not line:
            return
        yield line


def _parsed(line: str, where: str) -> Line:
    settings, prompt = re.fullmatch(r"(?:\[([^]]*)\])?\s*(.*)", line).groups()
    words = [word if "=" in word else f"frames={word}" for word in (settings or "").split()]
    pairs = [re.fullmatch(r"([a-z_]+)=([0-9]{1,9})", word) for word in words]
    options = {pair[1]: int(pair[2]) for pair in pairs if pair}
    if not prompt or settings == "" or len(options) != len(words) or not set(options) <= _SETTINGS:
        raise PhenakiError(
            f"{where}: '{line[:60]}' is not a scene: write a prompt, optionally after settings in brackets, as in "
            "'[frames=21 prime_frames=5] now it turns blue' or '[21] now it turns blue'"
        )
    return Line(prompt, options.get("frames"), options.get("prime_frames"), where)


class PartialVideo:
    """An unfinished story on disk. For `long.mp4`: `long.part.mp4`, the video so far, which can be watched while it
    grows, and `long.part.safetensors`, the state after the last complete scene and the settings.

    `settings`: JSON-serialisable, must be the same when resumed. Raises PhenakiError where an unfinished story exists
    but `resume` is False, and where it cannot be resumed.
    """

    def __init__(self, out: Path, settings: dict[str, Any], resume: bool) -> None:
        self.out, self.video, self._state = out, out.with_suffix(".part.mp4"), out.with_suffix(".part.safetensors")
        self._settings = json.loads(json.dumps(settings))
        self._tensors: dict[str, Tensor] = {}
        self._progress: dict[str, Any] = {"finished": 0, "digest": "", "frames": 0, "bytes": 0}
        self._read_scenes, self._digest = 0, ""
        if self._state.exists() and not resume:
            raise PhenakiError(
                f"'{self.video}' is an unfinished story: continue it with --resume, or delete '{self._state}'"
            )
        if self._state.exists():
            self._read()

    @property
    def finished(self) -> int:
        """Number of scenes in the video."""
        return self._progress["finished"]

    @property
    def frames(self) -> int:
        """Number of frames in the video."""
        return self._progress["frames"]

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open

        from phenaki.core.components import sha256

        try:
            with safe_open(self._state, "pt") as file:
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
                self._progress = parse_json_object(file.metadata()["story"], "its story")
            if wrong := [key for key, kind in _PROGRESS.items() if not isinstance(self._progress.get(key), kind)]:
                raise PhenakiError(f"it has no {shortened(wrong)}")
            if self._progress.pop("sha256", None) not in (None, sha256(self._progress, self._tensors)):
                raise PhenakiError("it is damaged")
        except (SafetensorError, OSError, KeyError, TypeError, PhenakiError) as error:
            raise PhenakiError(f"'{self._state}' cannot be read ({error}): delete it to start over") from error
        if not self.video.exists() or self.video.stat().st_size < self._progress["bytes"]:
            raise PhenakiError(f"'{self.video}' does not match '{self._state}': delete both to start over")
        before, now = self._progress["settings"], self._settings
        if changed := [name for name in now if before.get(name) != now[name]]:
            changes = ", ".join(f"{name} from {before.get(name)} to {now[name]}" for name in changed)
            raise PhenakiError(
                f"'{self.video}' was started with other settings (changed: {changes}): use the same, or delete "
                f"'{self._state}'"
            )

    @contextmanager
    def writing(self, rate: float, rollout: Rollout, metadata: dict[str, Any]) -> Iterator[Fragments]:
        """A writer of the video; it and the rollout continue after the last complete scene. When the block ends the
        video gets its final name, and the metadata as they are then; if it raises, the complete scenes stay."""
        from phenaki.core.files import writing
        from phenaki.media.writer import Fragments, remux_mp4

        if self.finished:
            rollout.restore(self._tensors)
        with writing(self.video), open(self.video, "r+b" if self.finished else "wb") as self._file:
            self._file.truncate(self._progress["bytes"])  # an interrupted scene is generated again
            self._file.seek(0, os.SEEK_END)
            try:
                writer = Fragments(self._file, rate, self.frames, metadata)
                yield writer
                if self._read_scenes < self.finished:
                    raise PhenakiError(
                        f"'{self.video}' has {pluralize(self.finished, 'scene')}, but the story has only "
                        f"{self._read_scenes}"
                    )
            except BaseException:
                if self.finished:
                    held = pluralize(self.finished, "scene")
                    print(f"phenaki: '{self.video}' has {held}: continue with --resume", file=sys.stderr)
                else:
                    self.video.unlink()
                raise
        remux_mp4(self.video, self.out, metadata)
        self._state.unlink()
        self.video.unlink()

    def has(self, scene: Scene) -> bool:
        """Whether the video has this scene. To be called with every scene of the story, in order."""
        self._digest = hashlib.sha256(f"{self._digest}{scene}".encode()).hexdigest()
        self._read_scenes += 1
        if self._read_scenes == self.finished and self._digest != self._progress["digest"]:
            held = pluralize(self.finished, "scene")
            raise PhenakiError(f"'{self.video}' has {held} that are not the first of this story: use the same story")
        return self._read_scenes <= self.finished

    def keep(self, rollout: Rollout, frames: int) -> None:
        """Save the state after the scene that `has` was last called with; `frames` in all."""
        from safetensors.torch import save

        from phenaki.core.components import sha256
        from phenaki.core.files import write_atomic

        os.fsync(self._file.fileno())
        self._progress = {
            "finished": self._read_scenes,
            "digest": self._digest,
            "frames": frames,
            "bytes": self._file.tell(),
            "settings": self._settings,
        }
        state = rollout.state()
        story = self._progress | {"sha256": sha256(self._progress, state)}
        with write_atomic(self._state) as file:
            file.write(save(state, {"story": json.dumps(story)}))


def write_story(story: Path, job: Job, resume: bool) -> None:
    """Write a story scene by scene. `job`: without prompts; its frames are of scenes that do not set them.

    The scenes of a file are checked before the first is generated, those of a pipe as they arrive.
    """
    video = job.video
    path = video.check("story" if story == PIPE else story.stem, job.frames)
    if resume and Path(path).exists() and not Path(path).with_suffix(".part.safetensors").exists():
        print(f"'{path}' is complete: there is nothing to resume")
        return

    from phenaki.pipeline import sampling_progress

    model, size = video.load((), job.frames, job.options)
    inputs, files = job.read_inputs(model, size)
    start = inputs.get("image")
    output = video.output(path, job.metadata(model, size, files), size, model.fps)
    lines = _recorded(read_story(story), output.metadata)
    scenes = (line.scene(model, job.frames, start is None and not number) for number, line in enumerate(lines))
    scenes = scenes if story == PIPE else iter(list(scenes))
    begin = {"start": start, "size": size, "seed": video.seed, "samples": video.samples}
    with sampling_progress(not video.quiet) as on_progress:
        rollout = model.rollout(**begin, **job.options, on_progress=on_progress)
        known = [] if start is None else [start.expand(rollout.samples, -1, -1, -1, -1)]
        if output.path.suffix.lower() != ".mp4":
            with output.writing() as add:
                for piece in chain(known, chain.from_iterable(map(rollout.generate, scenes))):
                    add(piece)
            return
        with lock(output.path.with_suffix(".part.lock"), output.path, "a story"):
            partial = PartialVideo(output.path, _settings(output, model, rollout, job.frames, start), resume)
            started, before = time.monotonic(), partial.frames
            with partial.writing(output.rate, rollout, output.metadata) as writer:
                for piece in known if not partial.finished else ():
                    writer.add(output.layout(piece))
                for scene in scenes:
                    if partial.has(scene):
                        continue
                    for piece in rollout.generate(scene):
                        writer.add(output.layout(piece))
                    partial.keep(rollout, writer.frames)
            output.say(writer.frames, time.monotonic() - started, writer.frames - before)


def _recorded(lines: Iterator[Line], metadata: dict[str, Any]) -> Iterator[Line]:
    """The lines, each noted in the metadata of the video as it is read."""
    default = metadata["frames"]
    metadata |= {"prompts": [], "frames": [], "prime_frames": []}
    for line in lines:
        metadata["prompts"].append(line.prompt)
        metadata["frames"].append(default if line.frames is None else line.frames)
        metadata["prime_frames"].append(line.prime_frames)
        yield line


def _settings(
    output: Output, model: Phenaki, rollout: Rollout, frames: int | None, start: Tensor | None
) -> dict[str, Any]:
    """All that the frames of a story depend on, except its scenes."""
    from phenaki.core.components import CRITIC, REQUIRED, fingerprint
    from phenaki.core.config import to_dict

    parts = zip((*REQUIRED, CRITIC), (model.tokenizer, model.generator, model.text_encoder, model.critic), strict=True)
    return {
        "model": {kind: fingerprint(part) for kind, part in parts if part is not None},
        "sampling": to_dict(rollout.sampling),
        "seed": output.metadata["seed"],
        "samples": rollout.samples,
        "size": list(output.size),
        "fps": output.rate,
        "frames": frames,
        "image": None if start is None else hashlib.sha256(start.numpy().tobytes()).hexdigest(),
    }
