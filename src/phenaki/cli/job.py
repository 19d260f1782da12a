"""A video to make, as a command line or the metadata of a file describes it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phenaki.cli.inputs import check_file, read_clip, read_mask, read_picture
from phenaki.cli.options import VideoArgs
from phenaki.core.errors import PhenakiError

if TYPE_CHECKING:
    from torch import Tensor

    from phenaki.pipeline import OnProgress, Phenaki
    from phenaki.sampling import SamplingConfig

OF_REPLAY = {"out", "model", "device", "precision", "compile", "quiet"}  # options that do not change what is repeated


@dataclass(frozen=True)
class Job:
    """command: generate, extend, interpolate or inpaint. prompts: of the scenes, a list where each sample has its own.
    inputs: the files it begins with, by what they are: image,
    clip, first, last, mask. options: sampling options of the call. sampling: all settings, and fingerprint that of the
    model, of a file that is made again. prime_frames: of each scene, None is the model's."""

    command: str
    prompts: tuple[str | list[str], ...]
    video: VideoArgs
    frames: int | list[int] | None = None
    inputs: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    blend: bool = False
    sampling: SamplingConfig | None = None
    prime_frames: tuple[int | None, ...] = ()
    fingerprint: str = ""

    def make(self) -> None:
        """Generate and write the video."""
        for file in self.inputs.values():
            check_file(file)
        path = self.video.check(str(self.prompts[0]), self.frames)

        from phenaki.pipeline import sampling_progress

        model, size = self.video.load(self.prompts, self.frames, self.options)
        if self.fingerprint and self.fingerprint != model.fingerprint:
            sentence = f"'{self.video.model}' has other weights than the model of that video: the result differs"
            print(f"phenaki: {sentence}", file=sys.stderr)
        if self.sampling is not None:
            model.sampling = self.sampling
        inputs, files = self.read_inputs(model, size)
        output = self.video.output(path, self.metadata(model, size, files), size, model.fps)
        with sampling_progress(not self.video.quiet) as on_progress, output.writing() as add:
            for piece in _MAKE[self.command](self, model, size, inputs, on_progress):
                add(piece)

    def metadata(self, model: Phenaki, size: tuple[int, int], files: Mapping[str, Any]) -> dict[str, Any]:
        """For the file that is written."""
        from phenaki.pipeline import provenance

        made = provenance(
            model,
            self.command,
            self.prompts,
            self.options,
            self.video.seed,
            self.video.samples,
            size,
            self.frames,
            files,
        )
        made |= {"blend": True} if self.blend else {}
        return made | ({"prime_frames": list(self.prime_frames)} if self.prime_frames else {})

    def read_inputs(self, model: Phenaki, size: tuple[int, int]) -> tuple[dict[str, Tensor], dict[str, dict[str, str]]]:
        """The videos and masks that the job begins with, and what metadata say of their files."""
        read = {
            name: (read_picture if name == "image" else read_clip)(file, size, model.fps)
            for name, file in self.inputs.items()
            if name != "mask"
        }
        if "mask" in self.inputs:
            read["mask"] = read_mask(self.inputs["mask"], self.inputs["clip"], size, model.fps)
        return read, {name: _digest(file) for name, file in self.inputs.items()}


Pieces = Iterator["Tensor"]


def _stream(
    job: Job, model: Phenaki, size: tuple[int, int], inputs: dict[str, Tensor], on_progress: OnProgress
) -> Pieces:
    start = inputs.get("image", inputs.get("clip"))
    begin = {"start": start, "size": size, "seed": job.video.seed, "samples": job.video.samples}
    if not job.prime_frames:
        prompts = list(job.prompts)
        yield from model.stream(prompts, frames=job.frames, **begin, on_progress=on_progress, **job.options)
        return
    lengths = job.frames if isinstance(job.frames, list) else [job.frames] * len(job.prompts)
    rollout = model.rollout(**begin, on_progress=on_progress, **job.options)
    if start is not None:
        yield start.expand(rollout.samples, -1, -1, -1, -1)
    for number, scene in enumerate(zip(job.prompts, lengths, job.prime_frames, strict=True)):
        yield from rollout.generate(model.scene(*scene, first=start is None and not number))


def _interpolate(
    job: Job, model: Phenaki, size: tuple[int, int], inputs: dict[str, Tensor], on_progress: OnProgress
) -> Pieces:
    options = {"frames": job.frames, "seed": job.video.seed, "samples": job.video.samples}
    progress = not job.video.quiet
    yield model.interpolate(
        inputs["first"], inputs["last"], *job.prompts, progress=progress, **options, **job.options
    ).video


def _inpaint(
    job: Job, model: Phenaki, size: tuple[int, int], inputs: dict[str, Tensor], on_progress: OnProgress
) -> Pieces:
    from phenaki.core.grid import floor_frames

    known, hole, clip, mask = inputs["clip"], inputs["mask"], job.inputs["clip"], job.inputs["mask"]
    count, period, frames = known.shape[2], model.tokenizer.patch[0], job.frames
    fits = floor_frames(count, period)
    if frames is None and fits != count:
        raise PhenakiError(
            f"'{clip}' has {count} frames, but the model needs 1 + {period}k: --frames {fits} drops the last"
        )
    if frames is not None and frames > count:
        raise PhenakiError(f"--frames {frames}, but '{clip}' has {count} frames: use at most {fits}")
    if len(hole) not in (1, count):
        raise PhenakiError(f"the mask '{mask}' has {len(hole)} frames, but '{clip}' has {count}: give one, or {count}")
    options = {"blend": job.blend, "seed": job.video.seed, "samples": job.video.samples}
    progress = not job.video.quiet
    yield model.inpaint(
        known[:, :, :frames], hole[:frames], *job.prompts, progress=progress, **options, **job.options
    ).video


_MAKE: dict[str, Callable[..., Pieces]] = {
    "generate": _stream,
    "extend": _stream,
    "interpolate": _interpolate,
    "inpaint": _inpaint,
}


def replayed(file: Path, video: VideoArgs) -> Job:
    """The job that a file was made by, to be made again with the output, device and, if it is another one, the model of
    `video`. Raises PhenakiError for a file that does not say, other options, and inputs that have changed."""
    from phenaki.core.config import from_dict
    from phenaki.core.version import __version__
    from phenaki.media.metadata import VERSION, read_metadata
    from phenaki.sampling import SamplingConfig

    made = read_metadata(file)
    if made is None or made.get("command") not in _MAKE or None in made["prompts"]:
        raise PhenakiError(f"'{file}' does not say how it was made: only videos of `phenaki generate` and the like do")
    changed = [
        f"--{option.name.replace('_', '-')}"
        for option in fields(VideoArgs)
        if option.name not in OF_REPLAY and getattr(video, option.name) != option.default
    ]
    if changed:
        raise PhenakiError(f"--replay repeats what '{file}' says: leave out {', '.join(changed)}")
    if made[VERSION] != __version__:
        print(
            f"phenaki: '{file}' was written by phenaki {made[VERSION]}; {__version__} may make another video",
            file=sys.stderr,
        )
    height, width = made["size"]
    own = {"seed": made["seed"], "samples": made["samples"], "fps": made["fps"], "upscale": made["upscale"]}
    model = made["model"] if video.model == VideoArgs.model else video.model
    return Job(
        made["command"],
        tuple(made["prompts"]),
        replace(video, **own, model=model, width=width, height=height),
        made["frames"],
        _unchanged(file, made.get("inputs", {})),
        blend=made.get("blend", False),
        sampling=from_dict(SamplingConfig, made["sampling"], where=f"'{file}'"),
        prime_frames=tuple(made.get("prime_frames", ())),
        fingerprint=made["fingerprint"],
    )


def _unchanged(made: Path, inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Path]:
    """The input files of a video that was made, which must be as they were."""
    for name, known in inputs.items():
        path = Path(known.get("file", ""))
        if not known.get("file"):
            raise PhenakiError(f"'{made}' began with frames that came from no file: it cannot be made again")
        if not path.is_file():
            raise PhenakiError(f"'{made}' began with the {name} '{path}', which is not there")
        if _digest(path)["sha256"] != known["sha256"]:
            raise PhenakiError(f"'{made}' began with the {name} '{path}', which has changed since")
    return {name: Path(known["file"]) for name, known in inputs.items()}


def _digest(file: Path) -> dict[str, str]:
    """The absolute path and the SHA-256 of an input file; frames in a folder have none."""
    data = file.read_bytes() if file.is_file() else b""
    return {"file": os.path.abspath(file), "sha256": hashlib.sha256(data).hexdigest()}
