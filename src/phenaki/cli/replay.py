"""Repeat a video that was saved in `phenaki play`."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phenaki.cli.job import OF_REPLAY
from phenaki.cli.options import VideoArgs
from phenaki.core.errors import PhenakiError, PhenakiWarning

if TYPE_CHECKING:
    from phenaki.play.recording import Recording


def read_recording(path: Path) -> Recording | None:
    """That of a video saved in `phenaki play`; None for another one. Raises PhenakiError for what is no video."""
    from phenaki.media.metadata import read_metadata
    from phenaki.play.recording import COMMAND, Recording

    metadata = read_metadata(path)
    if metadata is None or metadata.get("command") != COMMAND:
        return None
    return Recording.from_metadata(metadata, f"'{path}'")


def write_replay(path: Path, recording: Recording, video: VideoArgs) -> None:
    """Write the frames of the video at `path`, made again. Raises PhenakiError for options that say what the file says
    already, and for another model."""
    changed = [
        f"--{option.name}"
        for option in fields(VideoArgs)
        if option.name not in (*OF_REPLAY, "fps", "upscale") and getattr(video, option.name) != option.default
    ]
    if changed:
        raise PhenakiError(f"--replay repeats what '{path}' says: leave out {', '.join(changed)}")

    import torch

    from phenaki.core.hub import model_names
    from phenaki.media.convert import to_float

    if video.model == VideoArgs.model and (recording.model in model_names() or os.path.isdir(recording.model)):
        video = replace(video, model=recording.model)
    target = video.check(recording.prompt, None)
    model, size = video.load([recording.prompt], None, {})
    torch.set_num_threads(recording.threads)
    digest, output = hashlib.sha256(), video.output(target, recording.metadata, size, model.fps)
    with output.writing() as add:
        for clip in recording.frames_of(model):
            digest.update(clip.tobytes())
            add(to_float(clip[None]))
    if digest.hexdigest() != recording.sha256:
        warnings.warn(
            f"these frames are not bit for bit those of '{path}', which were made on another machine, or by another "
            "version of PyTorch or phenaki",
            PhenakiWarning,
            stacklevel=2,
        )
